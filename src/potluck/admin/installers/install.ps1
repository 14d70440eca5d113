<#
.SYNOPSIS
Makes this Windows machine a node of the Potluck gateway that this file was fetched from.

.DESCRIPTION
Installs the agent for your account alone, without an administrator: Python's virtual environment under
%LOCALAPPDATA%\Programs\potluck-node, the node's files under %LOCALAPPDATA%\potluck-node, and a scheduled task that starts
it when you log on. A task and not a Windows service, since a service can see neither whether you are at the machine nor
an engine that runs in your session.

What is downloaded is exactly what the SHA-256 below and in the requirement list name. Running it again brings the
version that the gateway has now; the machine stays the node that it is.

.EXAMPLE
$env:POTLUCK_JOIN_TOKEN = 'plj-...'; irm @ORIGIN@/install.ps1 -OutFile install.ps1; .\install.ps1

.EXAMPLE
.\install.ps1 -DryRun
#>
[CmdletBinding()]
param(
    # the join token; better in the variable POTLUCK_JOIN_TOKEN, which no list of processes shows
    [string]$Token = $env:POTLUCK_JOIN_TOKEN,
    # what the node is called at the gateway; this machine's name if not given
    [string]$Name = '',
    # share the small built-in model too: brings its engine; needs no other on this machine
    [switch]$LocalModel,
    # where the program goes
    [string]$Prefix = (Join-Path $env:LOCALAPPDATA 'Programs\potluck-node'),
    # install and enrol only: nothing is started, now or at log-on
    [switch]$NoService,
    # allow plain http to another machine: whoever is on the way reads prompts and answers
    [switch]$Insecure,
    # say every step, do none
    [switch]$DryRun,
    # stop the task, leave the gateway, remove the program
    [switch]$Uninstall
)

$ErrorActionPreference = 'Stop'
$ProgressPreference = 'SilentlyContinue'

$Origin = '@ORIGIN@'
$Version = '@VERSION@'
$Wheel = '@WHEEL@'
$WheelSha256 = '@WHEEL_SHA256@'
$RequirementsSha256 = '@REQUIREMENTS_SHA256@'
$LocalRequirementsSha256 = '@LOCAL_REQUIREMENTS_SHA256@'

function Stop-Install([string]$Message) {
    [Console]::Error.WriteLine("install.ps1: $Message")
    exit 1
}

function Write-Step([string]$Message) {
    Write-Output "- $Message"
}

function Invoke-Program([string]$Program, [string[]]$Arguments, [string]$Hint) {
    # runs a program; in a dry run, says it. An empty hint: whatever comes of it
    if ($DryRun) {
        Write-Output "    $Program $($Arguments -join ' ')"
        return
    }
    & $Program @Arguments
    if ($LASTEXITCODE -ne 0 -and $Hint) {
        Stop-Install $Hint
    }
}

function Test-Origin {
    # plain http only to this machine, or where it was asked for aloud
    $uri = [Uri]$Origin
    if ($uri.Scheme -eq 'https' -or $uri.IsLoopback) {
        return
    }
    if (-not $Insecure) {
        Stop-Install "$Origin is plain http to another machine, where prompts and answers can be read on the way: give the gateway TLS, or add -Insecure if that network is yours"
    }
    Write-Output 'WARNING: plain http to another machine: whoever is on the way reads prompts and answers (-Insecure).'
}

function Find-Python {
    # the command of the first Python >= 3.11, as a list of words
    $candidates = @(@('py', '-3'), @('python'), @('python3'))
    foreach ($candidate in $candidates) {
        if (-not (Get-Command $candidate[0] -ErrorAction SilentlyContinue)) {
            continue
        }
        $arguments = @($candidate | Select-Object -Skip 1) + @('-c', 'import ensurepip, sys, venv; sys.exit(sys.version_info < (3, 11))')
        try {
            & $candidate[0] @arguments 2>$null | Out-Null
            if ($LASTEXITCODE -eq 0) {
                return $candidate
            }
        } catch {
            # Windows PowerShell makes an error of what a program says on stderr, as the Store's stand-in for Python does
            continue
        }
    }
    if ($DryRun) {
        return @('py', '-3')
    }
    Stop-Install 'Python 3.11 or newer is needed, and none was found: winget install Python.Python.3.12, then open a new window and run this again'
}

function Get-Piece([string]$Name, [string]$Sha256, [string]$Folder) {
    # fetches one file and checks what came
    $address = "$Origin/install/$Name"
    $path = Join-Path $Folder $Name
    if ($DryRun) {
        Write-Output "    Invoke-WebRequest $address -OutFile $path"
        Write-Output "    SHA-256 of $path must be $Sha256"
        return
    }
    try {
        Invoke-WebRequest -Uri $address -OutFile $path -UseBasicParsing
    } catch {
        Stop-Install "$address could not be fetched ($($_.Exception.Message)): is the gateway up, and reached from here?"
    }
    $found = (Get-FileHash -Path $path -Algorithm SHA256).Hash.ToLowerInvariant()
    if ($found -ne $Sha256) {
        Stop-Install "what came as $Name is not what this script was made for (SHA-256 $found, expected $Sha256): the gateway may have been upgraded meanwhile, so fetch the script again"
    }
}

function Wait-Agent {
    # until it answers; where the built-in model is fetched first, it has three minutes for that
    $patience = if ($engine) { 180 } else { 10 }
    for ($second = 1; $second -le $patience; $second++) {
        if ($DryRun) {
            return
        }
        try {
            & $Potluck node status 2>$null | Out-Null
            if ($LASTEXITCODE -eq 0) {
                return
            }
        } catch {
            # it has not started yet, and says so on stderr
            Write-Verbose "second $second"
        }
        Start-Sleep -Seconds 1
    }
}

function Test-Ours {
    # the prefix is this installer's, even where it was interrupted: nobody else's is emptied
    return (Test-Path $Mark) -or (Test-Path $Potluck) -or ((Split-Path $Prefix -Leaf) -eq 'potluck-node')
}

function Uninstall-Node {
    if (-not $DryRun -and -not (((Test-Path $Venv) -or (Test-Path $Mark)) -and (Test-Ours))) {
        Write-Output "Nothing to remove: there is no $Potluck (another -Prefix?)."
        return
    }
    $untold = $false
    $enrolled = Test-Path (Join-Path $NodeHome 'node.json')
    if (-not $DryRun -and -not (Test-Path $Potluck)) {
        Write-Step "the installation in $Prefix was interrupted: there is no program to stop"
        if ($enrolled) {
            Stop-Install 'this machine is enrolled, and only the program can stop the task and leave the gateway: run this script once more without -Uninstall, then with it'
        }
    } else {
        Write-Step 'stop the agent and its scheduled task, and start it no more'
        Invoke-Program $Potluck @('node', 'uninstall-service') 'the agent was not stopped, and nothing was removed: the lines above say why; mend that, then run this again'
        if ($DryRun -or $enrolled) {
            Write-Step 'leave the gateway'
            Invoke-Program $Potluck @('node', 'leave') ''
            $untold = -not $DryRun -and $LASTEXITCODE -ne 0
        }
    }
    Write-Step 'remove the program'
    if ($DryRun) {
        Write-Output "    Remove-Item $Venv, $Mark -Recurse -Force"
    } else {
        $Venv, $Mark | Where-Object { Test-Path $_ } | Remove-Item -Recurse -Force
    }
    if ($untold) {
        Stop-Install "the program is removed, but the gateway was not told, as the lines above say: revoke the node there (potluck nodes revoke NAME), then remove $NodeHome"
    }
    Write-Output "Done. The node's own files are kept: remove $NodeHome if you want them gone."
}

function Install-Node {
    # it is in $Token now: no other program that is run here inherits it
    Remove-Item Env:\POTLUCK_JOIN_TOKEN -ErrorAction SilentlyContinue
    Test-Origin
    $enrolled = Test-Path (Join-Path $NodeHome 'node.json')
    if (-not $enrolled -and -not $Token -and -not $DryRun) {
        Stop-Install 'a join token is needed: make one at the gateway (potluck nodes token create) and pass it in POTLUCK_JOIN_TOKEN, or with -Token'
    }
    $python = @(Find-Python)
    $work = Join-Path ([IO.Path]::GetTempPath()) "potluck-install-$PID"
    Write-Output "Potluck agent $Version from $Origin, into $Prefix, with $python"
    try {
        if ((Test-Path $Venv) -and -not (Test-Ours)) {
            Stop-Install "$Venv is there and was not made by this script: choose another place with -Prefix"
        }
        if (-not $DryRun) {
            New-Item -ItemType Directory -Force -Path $work, $Prefix | Out-Null
        }
        Write-Step 'fetch the agent and its requirement list, and check their SHA-256'
        Get-Piece $Wheel $WheelSha256 $work
        Get-Piece 'node-requirements.txt' $RequirementsSha256 $work
        # or it was said before
        $settings = Get-Content (Join-Path $NodeHome 'settings.json') -ErrorAction SilentlyContinue
        $engine = $LocalModel -or ($settings -match '"local_model": *true')
        if ($engine) {
            Get-Piece 'node-local-requirements.txt' $LocalRequirementsSha256 $work
        }

        if ($enrolled -and (Test-Path $Potluck)) {
            Write-Step 'stop the agent that runs, since Windows does not replace files in use'
            Invoke-Program $Potluck @('node', 'uninstall-service') ''
        }
        Write-Step "make a virtual environment in $Venv"
        $arguments = @($python | Select-Object -Skip 1) + @('-m', 'venv', $Venv)
        if (-not (Get-Content $Mark -ErrorAction SilentlyContinue)) {
            # there is none, or an interrupted run left half of one
            $arguments += '--clear'
        }
        if (-not $DryRun) {
            New-Item -ItemType File -Force -Path $Mark | Out-Null
        }
        Invoke-Program $python[0] $arguments "the virtual environment $Venv could not be made: the lines above say why"
        if (-not $DryRun) {
            New-Item -ItemType File -Force -Path $Mark -Value "made by install.ps1 of $Origin" | Out-Null
        }

        Write-Step 'install the packages by their hashes, then the agent'
        $pip = @('-m', 'pip', '--disable-pip-version-check', '--no-input', '--quiet', 'install')
        $arguments = $pip + @('--require-hashes', '--only-binary', ':all:', '-r', (Join-Path $work 'node-requirements.txt'))
        Invoke-Program $VenvPython $arguments 'the packages that the agent needs could not be installed: the lines above say why (behind a proxy, set HTTPS_PROXY)'
        if ($engine) {
            $arguments = $pip + @('--require-hashes', '--only-binary', ':all:', '-r', (Join-Path $work 'node-local-requirements.txt'))
            Invoke-Program $VenvPython $arguments "the built-in model's engine could not be installed: the lines above say why; without -LocalModel this machine shares the engines that run on it"
        }
        $arguments = $pip + @('--no-index', '--no-deps', '--force-reinstall', (Join-Path $work $Wheel))
        Invoke-Program $VenvPython $arguments 'the agent could not be installed: the lines above say why'

        if ($enrolled) {
            Write-Step "this machine is enrolled already ($NodeHome): its node stays as it is"
        } else {
            Write-Step 'enrol this machine'
            $arguments = @('node', 'join', $Origin)
            if ($Name) {
                $arguments += @('--name', $Name)
            }
            if ($Insecure) {
                $arguments += '--insecure'
            }
            $env:POTLUCK_JOIN_TOKEN = $Token
            Invoke-Program $Potluck $arguments 'this machine was not enrolled: the lines above say why'
            Remove-Item Env:\POTLUCK_JOIN_TOKEN -ErrorAction SilentlyContinue
        }
        if ($LocalModel) {
            Write-Step 'share the built-in model; the agent fetches it when it starts (93 MB)'
            Invoke-Program $Potluck @('node', 'set', 'local_model', 'yes') 'the built-in model was not turned on: the lines above say why'
        }
        if ($NoService) {
            Write-Output "No task was installed. Start the agent with: $Potluck node run"
        } else {
            Write-Step 'start the agent, now and whenever you log on'
            Invoke-Program $Potluck @('node', 'install-service') "the task was not installed: the lines above say why; until then run: $Potluck node run"
            Wait-Agent
            Invoke-Program $Potluck @('node', 'status') ''
        }
    } finally {
        Remove-Item Env:\POTLUCK_JOIN_TOKEN -ErrorAction SilentlyContinue
        if (Test-Path $work) {
            Remove-Item $work -Recurse -Force
        }
    }
    Write-Output "Done. '$Potluck node status' says how the node stands; -Uninstall takes all of this back."
}

$NodeHome = if ($env:POTLUCK_NODE_HOME) { $env:POTLUCK_NODE_HOME } else { Join-Path $env:LOCALAPPDATA 'potluck-node' }
$Venv = Join-Path $Prefix 'venv'
$VenvPython = Join-Path $Venv 'Scripts\python.exe'
$Potluck = Join-Path $Venv 'Scripts\potluck.exe'
$Mark = Join-Path $Prefix '.potluck-node'

if ($Uninstall) {
    Uninstall-Node
} else {
    Install-Node
}
