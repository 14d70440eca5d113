#!/bin/sh
# Makes this machine a node of the Potluck gateway that this file was fetched from: Linux with systemd, or macOS.
#
#   curl -fsSL @ORIGIN@/install.sh | POTLUCK_JOIN_TOKEN=plj-... sh
#   curl -fsSL @ORIGIN@/install.sh | sh -s -- --dry-run
#
# As root: a service of the system, with a user of its own. Otherwise a service of yours alone. Nothing else of the
# machine is changed. What is downloaded is exactly what the SHA-256 below and in the requirement list name. Running
# it again brings the version that the gateway has now; the machine stays the node that it is.
set -eu

origin='@ORIGIN@'
version='@VERSION@'
wheel='@WHEEL@'
wheel_sha256='@WHEEL_SHA256@'
requirements_sha256='@REQUIREMENTS_SHA256@'
local_requirements_sha256='@LOCAL_REQUIREMENTS_SHA256@'

usage() {
  cat <<END
Makes this machine a node of $origin (agent $version).

  --token TOKEN    the join token; better in POTLUCK_JOIN_TOKEN, where no list of processes shows it
  --name NAME      what the node is called there; this machine's name if not given
  --local-model    share the small built-in model too: brings its engine; needs no other on this machine
  --prefix DIR     where the program goes: /opt/potluck-node for root, else ~/.local/lib/potluck-node
  --no-service     install and enrol only: nothing is started, now or at boot
  --insecure       allow plain http to another machine: whoever is on the way reads prompts and answers
  --ca-file FILE   trust these roots (PEM) and no others
  --dry-run        say every step, do none
  --uninstall      stop the service, leave the gateway, remove the program
  --help           this
END
}

say() { printf '%s\n' "$*"; }
die() { printf 'install.sh: %s\n' "$*" >&2; exit 1; }
have() { command -v "$1" >/dev/null 2>&1; }

run() { # run COMMAND...: does it; in a dry run, says it
  if [ "$dry" = 1 ]; then
    printf '    %s\n' "$*"
  else
    "$@"
  fi
}

find_python() { # the first Python >= 3.11 that can make virtual environments
  for each in "${PYTHON:-}" python3 python3.14 python3.13 python3.12 python3.11 /opt/homebrew/bin/python3 /usr/local/bin/python3; do
    { [ -n "$each" ] && have "$each"; } || continue
    "$each" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || continue
    if "$each" -c 'import ensurepip, venv' 2>/dev/null; then
      python=$each
      return 0
    fi
    python=${python:-$each}
  done
  if [ -n "$python" ]; then
    die "Python's venv module is missing: install it first (Debian, Ubuntu: apt install $(distro_venv)), then run this again"
  elif [ "$system" = Darwin ]; then
    die "Python 3.11 or newer is needed, and none was found: install it (brew install python3, or python.org), then run this again"
  fi
  die "Python 3.11 or newer is needed, and none was found: install it (Debian, Ubuntu: apt install python3 python3-venv), or name one with PYTHON=/path/to/python3"
}

distro_venv() { # the package is named after the version where that is not the distribution's own
  case "$python" in */* | python3) echo python3-venv ;; *) echo "$python-venv" ;; esac
}

check_origin() { # plain http only to this machine, or where it was asked for aloud
  case "$origin" in https://* | "http://[::1]" | "http://[::1]:"*) return 0 ;; esac
  host=${origin#http://}
  host=${host%%:*}
  case "$host" in
    localhost) return 0 ;;
    *[!0-9.]*) ;;
    127.*) return 0 ;;
  esac
  [ "$insecure" = 1 ] || die "$origin is plain http to another machine, where prompts and answers can be read on the way: give the gateway TLS (--tls-cert, or a proxy with --public-url), or add --insecure if that network is yours"
  say "WARNING: plain http to another machine: whoever is on the way reads prompts and answers (--insecure)."
}

fetch() { # fetch PATH FILE
  if have curl; then
    run curl -fsSL --proto '=http,https' --retry 3 --max-time 300 ${ca_file:+--cacert "$ca_file"} -o "$2" "$origin$1" ||
      die "$origin$1 could not be fetched: is the gateway up, and reached from here? (curl -v $origin/healthz)"
  elif have wget; then
    run wget -q --tries=3 --timeout=60 ${ca_file:+--ca-certificate="$ca_file"} -O "$2" "$origin$1" ||
      die "$origin$1 could not be fetched: is the gateway up, and reached from here? (wget -O - $origin/healthz)"
  else
    die "neither curl nor wget was found: install one (Debian, Ubuntu: apt install curl)"
  fi
}

check_sha256() { # check_sha256 FILE EXPECTED
  if [ "$dry" = 1 ]; then
    say "    SHA-256 of $1 must be $2"
    return 0
  fi
  found=$("$python" -c 'import hashlib, sys; print(hashlib.sha256(open(sys.argv[1], "rb").read()).hexdigest())' "$1")
  [ "$found" = "$2" ] || die "what came as $(basename "$1") is not what this script was made for (SHA-256 $found, expected $2): the gateway may have been upgraded meanwhile, so fetch the script again"
}

download() {
  say "- fetch the agent and its requirement list, and check their SHA-256"
  fetch "/install/$wheel" "$work/$wheel"
  fetch /install/node-requirements.txt "$work/node-requirements.txt"
  check_sha256 "$work/$wheel" "$wheel_sha256"
  check_sha256 "$work/node-requirements.txt" "$requirements_sha256"
  if [ "$engine" = 1 ]; then
    fetch /install/node-local-requirements.txt "$work/node-local-requirements.txt"
    check_sha256 "$work/node-local-requirements.txt" "$local_requirements_sha256"
  fi
}

ours() { # the prefix is this installer's, even where it was interrupted: nobody else's is emptied
  [ -e "$mark" ] || [ -x "$potluck" ] || [ "$(basename "$prefix")" = potluck-node ]
}

make_environment() { # a virtual environment that is whole and still works is kept
  say "- make a virtual environment in $venv"
  if [ -s "$mark" ] && "$venv/bin/python" -c 'import pip, sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
    return 0
  fi
  [ ! -e "$venv" ] || ours || die "$venv is there and was not made by this script: choose another place with --prefix"
  run mkdir -p "$prefix" || die "$prefix cannot be made: choose another place with --prefix"
  # empty for as long as the environment is half made
  [ "$dry" = 1 ] || printf '' >"$mark" || die "$prefix cannot be written to: choose another place with --prefix"
  run "$python" -m venv --clear "$venv" || die "the virtual environment $venv could not be made: the lines above say why"
  [ "$dry" = 1 ] || say "made by install.sh of $origin" >"$mark"
}

install_packages() {
  say "- install the packages by their hashes, then the agent"
  run "$venv/bin/python" -m pip --disable-pip-version-check --no-input --quiet install \
    --require-hashes --only-binary :all: -r "$work/node-requirements.txt" ||
    die "the packages that the agent needs could not be installed: the lines above say why (behind a proxy, set HTTPS_PROXY; for an index of your own, PIP_INDEX_URL)"
  if [ "$engine" = 1 ]; then
    run "$venv/bin/python" -m pip --disable-pip-version-check --no-input --quiet install \
      --require-hashes --only-binary :all: -r "$work/node-local-requirements.txt" ||
      die "the built-in model's engine could not be installed: the lines above say why; without --local-model this machine shares the engines that run on it"
    run "$venv/bin/python" -c 'import xllamacpp' ||
      die "the built-in model's engine cannot be loaded: the lines above say why. It needs libraries of the system (Debian, Ubuntu: apt install libgomp1 libstdc++6): install them and run this again"
  fi
  run "$venv/bin/python" -m pip --disable-pip-version-check --no-input --quiet install \
    --no-index --no-deps --force-reinstall "$work/$wheel" ||
    die "the agent could not be installed: the lines above say why"
}

link_program() { # never over a program of somebody else's
  say "- link $bin/potluck to it"
  there=$(readlink "$bin/potluck" 2>/dev/null || true)
  if [ "$there" = "$potluck" ] || { [ ! -e "$bin/potluck" ] && [ ! -L "$bin/potluck" ]; }; then
    run mkdir -p "$bin"
    run ln -sf "$potluck" "$bin/potluck"
  else
    say "  $bin/potluck is another program and left as it is: call $potluck"
  fi
}

join() {
  if enrolled; then
    say "- this machine is enrolled already ($home): its node stays as it is"
    return 0
  fi
  say "- enrol this machine"
  set -- node join "$origin" ${name:+--name "$name"} ${ca_file:+--ca-file "$ca_file"}
  [ "$insecure" = 0 ] || set -- "$@" --insecure
  if [ -n "$token" ]; then
    POTLUCK_JOIN_TOKEN=$token
    export POTLUCK_JOIN_TOKEN
  fi
  run "$potluck" "$@" </dev/null || die "this machine was not enrolled: the lines above say why"
  unset POTLUCK_JOIN_TOKEN
}

share_local_model() {
  say "- share the built-in model; the agent fetches it when it starts (93 MB)"
  run "$potluck" node set local_model yes </dev/null || die "the built-in model was not turned on: the lines above say why"
}

start() {
  if [ "$service" = 0 ]; then
    say "No service was installed. Start the agent with: $potluck node run"
    return 0
  fi
  say "- start the agent, now and at every start"
  run "$potluck" node install-service </dev/null ||
    die "the service was not installed: the lines above say why; until then run: $potluck node run"
  if [ "$dry" = 0 ]; then
    patience_s=10
    [ "$engine" = 0 ] || patience_s=180 # the model comes first
    while [ "$patience_s" -gt 0 ] && ! "$potluck" node status </dev/null >/dev/null 2>&1; do
      patience_s=$((patience_s - 1))
      sleep 1
    done
  fi
  run "$potluck" node status </dev/null || true
}

uninstall() {
  untold=0
  if [ "$dry" = 0 ] && { { [ ! -e "$venv" ] && [ ! -e "$mark" ]; } || ! ours; }; then
    say "Nothing to remove: there is no $potluck (another --prefix?)."
    return 0
  fi
  if [ "$dry" = 0 ] && [ ! -x "$potluck" ]; then
    say "- the installation in $prefix was interrupted: there is no program to stop"
    ! enrolled || die "this machine is enrolled, and only the program can stop the service and leave the gateway: run this script once more without --uninstall, then with it"
  else
    say "- stop the agent and its service, and start it no more"
    run "$potluck" node uninstall-service </dev/null ||
      die "the agent was not stopped, and nothing was removed: the lines above say why; mend that, then run this again"
    if [ "$dry" = 1 ] || enrolled; then
      say "- leave the gateway"
      run "$potluck" node leave </dev/null || untold=1
    fi
  fi
  say "- remove the program"
  [ "$(readlink "$bin/potluck" 2>/dev/null || true)" != "$potluck" ] || run rm -f "$bin/potluck"
  run rm -rf "$venv" "$mark"
  [ "$dry" = 1 ] || rmdir "$prefix" 2>/dev/null || true
  [ "$untold" = 0 ] || die "the program is removed, but the gateway was not told, as the lines above say: revoke the node there (potluck nodes revoke NAME), then remove $home"
  say "Done. The node's own files are kept: remove $home if you want them gone."
}

enrolled() { [ -f "$home/node.json" ]; }

main() {
  token=${POTLUCK_JOIN_TOKEN:-}
  unset POTLUCK_JOIN_TOKEN
  name='' prefix='' ca_file='' python='' insecure=0 service=1 local_model=0 dry=0 remove=0
  while [ $# -gt 0 ]; do
    case "$1" in
      --token | --name | --prefix | --ca-file)
        [ $# -ge 2 ] || die "$1 needs a value (see --help)"
        case "$1" in
          --token) token=$2 ;;
          --name) name=$2 ;;
          --prefix) prefix=$2 ;;
          --ca-file) ca_file=$2 ;;
        esac
        shift ;;
      --no-service) service=0 ;;
      --local-model) local_model=1 ;;
      --insecure) insecure=1 ;;
      --dry-run) dry=1 ;;
      --uninstall) remove=1 ;;
      --help | -h) usage; exit 0 ;;
      *) die "unknown option $1 (see --help)" ;;
    esac
    shift
  done
  case "$origin" in @*) die "this is the template: fetch the script from a gateway (curl -fsSL http://127.0.0.1:7171/install.sh)" ;; esac

  umask 022
  system=$(uname -s)
  root=0
  [ "$(id -u)" != 0 ] || root=1
  case "$system" in
    Linux)
      if [ "$root" = 1 ]; then
        prefix=${prefix:-/opt/potluck-node} home=${POTLUCK_NODE_HOME:-/var/lib/potluck-node} bin=/usr/local/bin
      else
        prefix=${prefix:-$HOME/.local/lib/potluck-node} bin=$HOME/.local/bin
        home=${POTLUCK_NODE_HOME:-${XDG_DATA_HOME:-$HOME/.local/share}/potluck-node}
      fi ;;
    Darwin)
      account=$HOME
      if [ "$root" = 1 ]; then
        [ "${SUDO_USER:-root}" != root ] || die "on a Mac, run this from your own account, with or without sudo: the service runs as that account"
        account=$(dscl . -read "/Users/$SUDO_USER" NFSHomeDirectory | sed 's/^[^ ]* //')
        prefix=${prefix:-/usr/local/lib/potluck-node} bin=/usr/local/bin
      else
        prefix=${prefix:-$HOME/.local/lib/potluck-node} bin=$HOME/.local/bin
      fi
      home="${POTLUCK_NODE_HOME:-$account/Library/Application Support/potluck-node}" ;;
    *) die "this script knows Linux and macOS, not $system: on Windows use install.ps1; elsewhere install the wheel by hand ($origin/install/$wheel)" ;;
  esac
  case "$prefix" in /*) ;; *) prefix=$PWD/$prefix ;; esac
  case "$ca_file" in "" | /*) ;; *) ca_file=$PWD/$ca_file ;; esac
  [ -z "$ca_file" ] || [ -r "$ca_file" ] || die "the file of roots $ca_file cannot be read: check its path"
  export POTLUCK_NODE_HOME="$home"
  venv=$prefix/venv
  potluck=$venv/bin/potluck
  mark=$prefix/.potluck-node

  if [ "$remove" = 1 ]; then
    uninstall
    return 0
  fi

  check_origin
  if ! enrolled && [ -z "$token" ] && [ "$dry" = 0 ]; then
    die "a join token is needed: make one at the gateway (potluck nodes token create) and pass it in POTLUCK_JOIN_TOKEN, or with --token"
  fi
  if [ "$service" = 1 ] && [ "$system" = Linux ] && { ! have systemctl || [ ! -d /run/systemd/system ]; }; then
    service=0
    say "systemd does not run here: the agent will not start by itself. Let your own supervisor run: $potluck node run"
  fi
  find_python
  engine=$local_model
  if grep -q '"local_model": *true' "$home/settings.json" 2>/dev/null; then # said before
    engine=1
  fi

  say "Potluck agent $version from $origin, into $prefix, with $("$python" --version)"
  if [ "$dry" = 1 ]; then
    work=/tmp/potluck-install
  else
    work=$(mktemp -d) || die "no temporary folder could be made: is /tmp writable?"
    trap 'rm -rf "$work"' EXIT
    # a shell that a signal ends runs no trap of EXIT by itself
    trap 'exit 129' HUP
    trap 'exit 130' INT
    trap 'exit 143' TERM
  fi
  download
  make_environment
  install_packages
  link_program
  join
  [ "$local_model" = 0 ] || share_local_model
  start
  if [ "$dry" = 0 ]; then
    say "Done. potluck node status says how the node stands; --uninstall takes all of this back."
  fi
}

# the last line: of a script that was cut on its way, nothing is run
main "$@"
