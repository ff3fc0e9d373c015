"""The agent as a systemd service: a unit with limits, and a sandbox that leaves it its own folders."""

from __future__ import annotations

import os
from pathlib import Path

from .config import AgentConfig

UNIT_FOLDER = Path("/etc/systemd/system")
WATCHDOG_SECONDS = 60
IDLE_MIB = 160

_UNIT = """\
[Unit]
Description=Hedgerow agent {device}
Wants=network-online.target
After=network-online.target
StartLimitIntervalSec=0

[Service]
Type=notify
NotifyAccess=main
ExecStart={command}
User={user}
Restart=always
RestartSec=5
RestartPreventExitStatus=57
WatchdogSec={watchdog}
TimeoutStopSec=5
OOMPolicy=continue
Nice=5
CPUWeight=20
IOWeight=20
TasksMax=64
MemoryMax={memory}

UMask=0077
NoNewPrivileges=yes
CapabilityBoundingSet=
AmbientCapabilities=
ProtectSystem=strict
ProtectHome=read-only
{writable}
PrivateTmp=yes
PrivateDevices={private_devices}
{devices}ProtectProc=invisible
ProtectClock=yes
ProtectHostname=yes
ProtectKernelTunables=yes
ProtectKernelModules=yes
ProtectKernelLogs=yes
ProtectControlGroups=yes
RestrictAddressFamilies=AF_UNIX AF_INET AF_INET6 AF_NETLINK
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
LockPersonality=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged listen accept accept4
SystemCallErrorNumber=EPERM
SocketBindDeny=any

[Install]
WantedBy=multi-user.target
"""


def unit_name(config: AgentConfig) -> str:
    """The file's name: one unit for each device id."""
    return f"hedgerow-agent-{config.device}.service"


def unit_text(config: AgentConfig, path: Path, *, python: str, user: str) -> str:
    """A unit file.

    Args:
        config: The agent's, as `AgentConfig.load` gave it.
        path: Of the `agent.toml`.
        python: The interpreter that has Hedgerow.
        user: Whom the agent runs as; not root.
    """
    folders = {Path(config.folder), Path(config.samples)}
    if config.log_file:
        folders.add(Path(config.log_file).parent)
    writable = " ".join(_quoted(str(folder.absolute())) for folder in sorted(folders))
    # An accelerator is a device node, which a private /dev does not have.
    accelerated = bool(config.target or config.delegate)
    memory = f"{config.memory_limit_mib + IDLE_MIB}M" if config.memory_limit_mib else "60%"
    command = (python, "-m", "hedgerow.edge", "--config", str(path.absolute()))
    return _UNIT.format(
        device=config.device,
        command=" ".join(map(_quoted, command)),
        user=user,
        watchdog=WATCHDOG_SECONDS,
        memory=memory,
        writable=f"ReadWritePaths={writable}",
        private_devices="no" if accelerated else "yes",
        devices="" if accelerated else "DevicePolicy=closed\n",
    )


def make_folders(config: AgentConfig, user: str) -> None:
    """Makes the folders that the sandbox leaves the agent, for its user: they must be there when it starts.

    Raises:
        OSError: They cannot be made.
        KeyError: There is no such user.
    """
    import pwd

    entry = pwd.getpwnam(user)
    for folder in (Path(config.folder), Path(config.samples)):
        folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        if os.geteuid() == 0:
            os.chown(folder, entry.pw_uid, entry.pw_gid)


def _quoted(word: str) -> str:
    """A word as systemd.syntax(7) wants it; `%` begins a specifier and `$` a variable."""
    word = word.replace("\\", "\\\\").replace('"', '\\"').replace("%", "%%").replace("$", "$$")
    return f'"{word}"' if any(letter in word for letter in " \t\"';") else word
