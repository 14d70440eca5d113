"""`python -m potluck.admin.installers`: makes the wheel that `/install.sh` serves, and says where it stands."""

import os
import sys

from potluck.admin.installers import InstallerError, Kit
from potluck.config.settings import home_directory
from potluck.store.errors import StoreError
from potluck.store.home import prepare_home


def main() -> int:
    home = home_directory(None, os.environ)
    try:
        prepare_home(home)
        kit = Kit(home)
        made = kit.wheel()
    except (InstallerError, StoreError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    sys.stdout.write(f"the agent's wheel, which /install.sh serves: {kit.wheel_path} (SHA-256 {made.sha256})\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
