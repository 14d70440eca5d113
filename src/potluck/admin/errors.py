"""The one error of operations: a status, a code, and a sentence that says what, why and how to mend it."""

from typing import Any


class OperationError(Exception):
    """Nothing was changed. `detail` is complete for a person and holds no secret.

    `status`: the HTTP status that fits. `code`: a stable word for programs. `where`: the member at fault, as a path.
    `more`: further members of the answer.
    """

    def __init__(self, status: int, code: str, detail: str, *, where: str = "", more: dict[str, Any] | None = None):
        super().__init__(detail)
        self.status = status
        self.code = code
        self.detail = detail
        self.where = where
        self.more = more or {}


def invalid(where: str, detail: str) -> OperationError:
    """400: a value that cannot be."""
    return OperationError(400, "invalid_request", detail, where=where)


def not_found(kind: str, ref: str) -> OperationError:
    """404: there is no such object, or it is somebody else's."""
    return OperationError(404, "not_found", f"there is no {kind} {ref!r}: list them to see their names")


def conflict(detail: str, code: str = "conflict") -> OperationError:
    """409: it stands against what there is."""
    return OperationError(409, code, detail)


def kept_by_file(kind: str, name: str) -> OperationError:
    """409: the object is a file's."""
    return conflict(
        f"{kind} {name!r} comes from a configuration file and is read-only here: change the file and apply it",
        "kept_by_file",
    )
