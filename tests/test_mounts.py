"""What the kernel's and the system's tables say of disks; real mounts: tests/kernel, tests/boot and tests/faults."""

import pytest

from powermeter import mounts

FSTAB = """\
# a Pi's
proc            /proc           proc    defaults          0       0
PARTUUID=6c586e13-01  /boot/firmware  vfat    defaults          0       2
PARTUUID=6c586e13-02  /               ext4    defaults,noatime  0       1
nas:/volume1    /mnt/nas        nfs4    nofail,_netdev    0       0
/dev/sda1       /mnt/a\\040stick/ vfat  nofail            0       0
/swapfile       none            swap    sw                0       0
"""

MOUNTINFO = """\
21 1 179:2 / / rw,noatime shared:1 - ext4 /dev/root rw
22 21 0:5 / /proc rw shared:12 - proc proc rw
23 21 0:20 / /tmp rw,nosuid master:3 propagate_from:2 - tmpfs tmpfs rw,size=1g
24 21 179:1 / /boot/firmware rw - vfat /dev/mmcblk0p1 rw
25 21 0:40 / /mnt/nas rw - autofs systemd-1 rw
26 25 0:41 / /mnt/nas rw - nfs4 nas:/volume1 rw,vers=4.2
27 23 0:42 / /tmp/mem rw - ramfs none rw
28 21 0:43 / /srv rw - overlay overlay rw,lowerdir=/l,upperdir=/upper/upper,workdir=/w
"""


@pytest.fixture
def tables(tmp_path, monkeypatch):
    for name, text in (("FSTAB", FSTAB), ("MOUNTED", MOUNTINFO)):
        (tmp_path / name).write_text(text)
        monkeypatch.setattr(mounts, name, str(tmp_path / name))
    return tmp_path


@pytest.mark.parametrize(
    ("path", "missing"),
    [
        ("/mnt/nas/power.csv", None),
        ("/mnt/a stick/power.csv", "/mnt/a stick"),
        ("/mnt/a stick", "/mnt/a stick"),
        ("/mnt/a sticky/power.csv", None),
        ("/boot/firmware/x", None),
        ("/home/pi", None),
    ],
)
def test_not_mounted(tables, path, missing):
    """A path is below a mount point by whole names, and escapes are undone; "/" is always there."""
    assert mounts.not_mounted(path) == missing


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/var/lib/power", "ext4"),
        ("/tmp/power", "tmpfs"),
        ("/tmpfs", "ext4"),
        ("/tmp/mem/x", "ramfs"),
        ("/mnt/nas/power", "nfs4"),
        ("/srv/power", "overlay"),
    ],
)
def test_file_system(tables, path, kind):
    """The longest mount point above a path has it, and of two at one place the later one."""
    assert mounts.file_system(path) == kind


def test_volatile(tables, tmp_path):
    """What is in memory is gone after a reboot, and so is an overlay, unless its changes are kept on a disk."""
    found = [mounts.volatile(path) for path in ("/var/lib/power", "/tmp/power", "/tmp/mem/x", "/srv/power")]
    assert found == [None, "tmpfs", "ramfs", "overlay"]
    upper = tmp_path / "upper"
    upper.mkdir()
    line = f"30 21 0:44 / /opt rw - overlay overlay rw,lowerdir=/l,upperdir={upper},workdir=/w\n"
    (tables / "MOUNTED").write_text(MOUNTINFO.replace(" /tmp rw", " /var/tmp rw") + line)
    assert mounts.volatile("/opt/power") is None
    (tables / "MOUNTED").write_text(MOUNTINFO.replace(" /tmp rw", f" {tmp_path.parent} rw") + line)
    assert mounts.volatile("/opt/power") == "overlay"


def test_tables_that_can_not_be_read(monkeypatch):
    """Without a table, no disk is known to be missing, and a path's file system is not known."""
    for name in ("FSTAB", "MOUNTED"):
        monkeypatch.setattr(mounts, name, "/nowhere")
    assert mounts.not_mounted("/mnt/nas") is None
    assert mounts.file_system("/mnt/nas") == ""
    assert mounts.volatile("/mnt/nas") is None
