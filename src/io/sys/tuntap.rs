//! TUN and TAP devices: opened, adopted, read and written.
//!
//! # Theory of operation
//! Three facts of the kernel's `drivers/net/tun.c` shape this file:
//!
//! - The network namespace is fixed by `open("/dev/net/tun")`, not by TUNSETIFF. The open therefore runs inside the
//!   namespace of the device ([`crate::io::enter`]), and the file descriptor travels.
//! - Flags (virtio header or not), the offload mask and the length of the virtio header belong to the *device* and
//!   outlive a file descriptor. Whoever attaches sets all three anew: a plain reader of a device whose last user had
//!   left TSO on would get 64 KiB frames with no header to explain them.
//! - An attached file descriptor needs no privilege any more, not even for TUNSETOFFLOAD and TUNSETPERSIST.
//!
//! # Invariants
//! A [`Device`] is non-blocking and close-on-exec, carries no packet-information header, and its [`Caps`] say what the
//! kernel accepted, once, when it was opened: they do not change afterwards.

use std::io::{self, IoSlice};
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use rustix::io::{Errno, FdFlags};
use rustix::ioctl::{self, Opcode};
use serde::{Deserialize, Serialize};

use crate::frame::Caps;
use crate::wire::vnet;

const NODE: &str = "/dev/net/tun";

/// Which layer a device speaks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Kind {
    /// Ethernet frames.
    Tap,
    /// IP packets.
    Tun,
}

impl Kind {
    fn flag(self) -> i32 {
        match self {
            Self::Tap => libc::IFF_TAP,
            Self::Tun => libc::IFF_TUN,
        }
    }
}

impl std::fmt::Display for Kind {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self {
            Self::Tap => "TAP",
            Self::Tun => "TUN",
        })
    }
}

/// Whether frames are to carry a virtio-net header.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Header {
    /// With a header and every offload the kernel takes; plain on a kernel that has none.
    #[default]
    Vnet,
    /// Without: whole frames of at most the MTU, with complete checksums.
    Plain,
}

/// What went wrong with a device, in one line: what, on what, why, and what to do.
#[derive(Debug, thiserror::Error)]
pub enum TunError {
    #[error(
        "cannot open {NODE}: {reason}; make it readable and writable for the user who runs pontoon (its usual mode is 0666: chmod 0666 {NODE})"
    )]
    NodeForbidden { reason: Errno },
    #[error(
        "cannot open {NODE}: {reason}; load the driver (modprobe tun) and see that the node is there (mknod {NODE} c 10 200)"
    )]
    NodeMissing { reason: Errno },
    #[error("{NODE} is not the TUN driver's node ({reason}); make it anew (mknod {NODE} c 10 200)")]
    NodeWrong { reason: Errno },
    #[error(
        "\"{name}\" cannot be the name of a network device: 1 to 15 bytes, no space, '/', ':' or '%', and neither \".\" nor \"..\""
    )]
    BadName { name: String },
    #[error("{kind} {name} is in use by another process; detach it there, or choose another name")]
    Busy { kind: Kind, name: String },
    #[error("{name} exists already and is not a single-queue {kind} device; remove it, or choose another name")]
    Taken { kind: Kind, name: String },
    #[error(
        "cannot {verb} {kind} {name}: no CAP_NET_ADMIN in the user namespace that owns this network namespace; use a namespace of your own, or have an administrator make it for you (ip tuntap add dev {name} mode {mode} user {uid})",
        verb = if *.exists { "attach to" } else { "create" }, mode = kind.to_string().to_lowercase()
    )]
    Forbidden { kind: Kind, name: String, exists: bool, uid: u32 },
    #[error(
        "the file descriptor handed over is not an attached TUN or TAP device ({reason}); hand over one on which TUNSETIFF was done"
    )]
    NotTun { reason: Errno },
    #[error("the file descriptor handed over is {name}, a {found} device, where a {wanted} is needed")]
    WrongKind { name: String, wanted: Kind, found: Kind },
    #[error("{kind} {name}: {call} failed: {reason}")]
    Other { kind: Kind, name: String, call: &'static str, reason: Errno },
}

/// An attached TUN or TAP device.
#[derive(Debug)]
pub struct Device {
    fd: OwnedFd,
    kind: Kind,
    name: String,
    caps: Caps,
}

impl Device {
    /// Makes the device `name` in the calling thread's network namespace, or attaches to it if it is there, idle and of
    /// this kind.
    ///
    /// A new device goes when its last file descriptor is closed, unless [`Device::set_persist`] says otherwise.
    pub fn open(kind: Kind, name: &str, header: Header) -> Result<Self, TunError> {
        if !is_valid_name(name) {
            return Err(TunError::BadName { name: name.into() });
        }
        let uid = rustix::process::geteuid().as_raw();
        let flags = OFlags::RDWR | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::open(NODE, flags, Mode::empty()).map_err(|reason| match reason {
            Errno::ACCESS | Errno::PERM => TunError::NodeForbidden { reason },
            Errno::NOENT | Errno::NODEV | Errno::NXIO | Errno::NOTDIR => TunError::NodeMissing { reason },
            reason => TunError::Other { kind, name: name.into(), call: "open of /dev/net/tun", reason },
        })?;
        let vnet = header == Header::Vnet && features(&fd).is_ok_and(|f| f & libc::IFF_VNET_HDR != 0);
        let mut flags = kind.flag() | libc::IFF_NO_PI;
        if vnet {
            flags |= libc::IFF_VNET_HDR;
        }
        attach(&fd, name, flags).map_err(|reason| {
            let name = name.to_owned();
            match reason {
                Errno::BUSY => TunError::Busy { kind, name },
                Errno::NOTTY => TunError::NodeWrong { reason },
                Errno::INVAL if exists(&name) => TunError::Taken { kind, name },
                Errno::PERM | Errno::ACCESS => {
                    let exists = exists(&name);
                    TunError::Forbidden { kind, name, exists, uid }
                }
                reason => TunError::Other { kind, name, call: "TUNSETIFF", reason },
            }
        })?;
        Self::settle(fd, kind, name.to_owned(), vnet)
    }

    /// Takes over a file descriptor on which somebody else did TUNSETIFF.
    ///
    /// IFF_NO_PI is by contract: TUNGETIFF cannot tell, it reports IFF_NOFILTER in the same bit. Whether frames carry a
    /// virtio header is read from the device and kept.
    pub fn adopt(fd: OwnedFd, wanted: Kind) -> Result<Self, TunError> {
        let (name, flags) = identify(&fd).map_err(|reason| TunError::NotTun { reason })?;
        let found = if flags & libc::IFF_TAP != 0 { Kind::Tap } else { Kind::Tun };
        if found != wanted {
            return Err(TunError::WrongKind { name, wanted, found });
        }
        let prepare = || {
            let status = rustix::fs::fcntl_getfl(&fd)?;
            rustix::fs::fcntl_setfl(&fd, status | OFlags::NONBLOCK)?;
            rustix::io::fcntl_setfd(&fd, FdFlags::CLOEXEC)
        };
        prepare().map_err(|reason| TunError::Other { kind: found, name: name.clone(), call: "fcntl", reason })?;
        Self::settle(fd, found, name, flags & libc::IFF_VNET_HDR != 0)
    }

    /// Sets what outlives a file descriptor: the header's length and the offload mask.
    fn settle(fd: OwnedFd, kind: Kind, name: String, vnet: bool) -> Result<Self, TunError> {
        let failed = |call, reason| TunError::Other { kind, name: name.clone(), call, reason };
        if !vnet {
            set_offload(&fd, 0).map_err(|e| failed("TUNSETOFFLOAD", e))?;
            let caps = Caps::PLAIN;
            return Ok(Self { fd, kind, name, caps });
        }
        set_vnet_header_len(&fd, vnet::LEN as i32).map_err(|e| failed("TUNSETVNETHDRSZ", e))?;
        // As old as the header itself (Linux 2.6.27), so not asked for one by one.
        let tso = libc::TUN_F_CSUM | libc::TUN_F_TSO4 | libc::TUN_F_TSO6 | libc::TUN_F_TSO_ECN;
        // Linux 6.2. An unknown bit is EINVAL, so the kernel's age shows here and nowhere else.
        let uso = libc::TUN_F_USO4 | libc::TUN_F_USO6;
        let caps = Caps { vnet: true, uso: set_offload(&fd, tso | uso).is_ok() };
        if !caps.uso {
            set_offload(&fd, tso).map_err(|e| failed("TUNSETOFFLOAD", e))?;
        }
        Ok(Self { fd, kind, name, caps })
    }

    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// The name it had when it was opened; its namespace may rename it.
    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn caps(&self) -> Caps {
        self.caps
    }

    /// One frame, with its virtio header if [`Caps::vnet`]. A frame longer than `buf` loses its end without a word, so
    /// `buf` holds the largest one: header + 65,535 + Ethernet.
    pub fn read(&self, buf: &mut [u8]) -> io::Result<usize> {
        Ok(rustix::io::read(&self.fd, buf)?)
    }

    /// One frame, with its virtio header if [`Caps::vnet`].
    pub fn write(&self, frame: &[u8]) -> io::Result<usize> {
        Ok(rustix::io::write(&self.fd, frame)?)
    }

    /// One frame in pieces, the virtio header first if [`Caps::vnet`].
    pub fn write_vectored(&self, pieces: &[IoSlice<'_>]) -> io::Result<usize> {
        Ok(rustix::io::writev(&self.fd, pieces)?)
    }

    /// Whether the device, its addresses and routes stay when the last file descriptor is closed.
    pub fn set_persist(&self, persist: bool) -> io::Result<()> {
        // SAFETY: TUNSETPERSIST takes its argument by value; any integer is in range.
        let call = unsafe { ioctl::IntegerSetter::<{ libc::TUNSETPERSIST as Opcode }>::new_usize(persist.into()) };
        // SAFETY: the opcode is of the TUN driver, whose device this file descriptor is (checked by `open` and `adopt`).
        Ok(unsafe { ioctl::ioctl(&self.fd, call) }?)
    }

    /// Lets `uid` (in the caller's user namespace), and whoever has CAP_NET_ADMIN, attach to the device while it is
    /// persistent and idle. A device without an owner is anybody's who can open /dev/net/tun in its namespace.
    pub fn set_owner(&self, uid: u32) -> io::Result<()> {
        // SAFETY: TUNSETOWNER takes a uid by value.
        let call = unsafe { ioctl::IntegerSetter::<{ libc::TUNSETOWNER as Opcode }>::new_usize(uid as usize) };
        // SAFETY: as in `set_persist`.
        Ok(unsafe { ioctl::ioctl(&self.fd, call) }?)
    }
}

impl AsFd for Device {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

impl From<Device> for OwnedFd {
    fn from(device: Device) -> Self {
        device.fd
    }
}

/// The kernel's `dev_valid_name`, and no '%': it would be a template ("tap%d") and the name somebody else's choice.
pub fn is_valid_name(name: &str) -> bool {
    (1..libc::IFNAMSIZ).contains(&name.len())
        && name != "."
        && name != ".."
        && name.bytes().all(|b| b.is_ascii_graphic() && !matches!(b, b'/' | b':' | b'%'))
}

/// Whether the calling thread's network namespace has a device of this name.
pub fn exists(name: &str) -> bool {
    use rustix::net::{AddressFamily, SocketFlags, SocketType, netdevice, socket_with};
    socket_with(AddressFamily::UNIX, SocketType::DGRAM, SocketFlags::CLOEXEC, None)
        .is_ok_and(|any| netdevice::name_to_index(&any, name).is_ok())
}

fn features(fd: &OwnedFd) -> Result<i32, Errno> {
    // SAFETY: TUNGETFEATURES writes one unsigned int.
    let call = unsafe { ioctl::Getter::<{ libc::TUNGETFEATURES as Opcode }, u32>::new() };
    // SAFETY: the opcode belongs to the TUN driver, which `fd` was just opened on.
    Ok(unsafe { ioctl::ioctl(fd, call) }? as i32)
}

fn attach(fd: &OwnedFd, name: &str, flags: i32) -> Result<(), Errno> {
    let mut request = blank_request();
    for (to, from) in request.ifr_name.iter_mut().zip(name.bytes()) {
        *to = from as libc::c_char;
    }
    // The flags are 16 bits that the kernel reads as unsigned: every one of ours is below 0x8000.
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: TUNSETIFF reads and writes one `struct ifreq`, which `request` is.
    let call = unsafe { ioctl::Updater::<{ libc::TUNSETIFF as Opcode }, _>::new(&mut request) };
    // SAFETY: the opcode belongs to the TUN driver, which `fd` was just opened on.
    unsafe { ioctl::ioctl(fd, call) }
}

/// The name and flags of the device behind `fd`; an error if there is none.
fn identify(fd: &OwnedFd) -> Result<(String, i32), Errno> {
    let mut request = blank_request();
    // SAFETY: TUNGETIFF writes one `struct ifreq`. Its opcode says `unsigned int`, a slip of 2008 that is ABI now.
    let call = unsafe { ioctl::Updater::<{ libc::TUNGETIFF as Opcode }, _>::new(&mut request) };
    // SAFETY: `fd` may be anything, it was handed to us. The 'T' 210 opcode is the TUN driver's alone in the kernel's
    // ioctl-number.rst; another driver refuses it (ENOTTY), and none writes more than the 40 bytes of `request`.
    unsafe { ioctl::ioctl(fd, call) }?;
    let name = request.ifr_name.iter().take_while(|&&c| c != 0).map(|&c| c as u8).collect::<Vec<_>>();
    // SAFETY: TUNGETIFF filled the flags; the union is plain integers and was zeroed before.
    let flags = unsafe { request.ifr_ifru.ifru_flags };
    Ok((String::from_utf8_lossy(&name).into_owned(), i32::from(flags)))
}

fn blank_request() -> libc::ifreq {
    // SAFETY: `struct ifreq` is integers, arrays and a null pointer: all zero is a value of it.
    unsafe { std::mem::zeroed() }
}

fn set_offload(fd: &OwnedFd, mask: u32) -> Result<(), Errno> {
    // SAFETY: TUNSETOFFLOAD takes its mask by value and checks it.
    let call = unsafe { ioctl::IntegerSetter::<{ libc::TUNSETOFFLOAD as Opcode }>::new_usize(mask as usize) };
    // SAFETY: `fd` is an attached TUN device: `attach` or `identify` succeeded on it.
    unsafe { ioctl::ioctl(fd, call) }
}

fn set_vnet_header_len(fd: &OwnedFd, len: i32) -> Result<(), Errno> {
    // SAFETY: TUNSETVNETHDRSZ reads one int.
    let call = unsafe { ioctl::Setter::<{ libc::TUNSETVNETHDRSZ as Opcode }, i32>::new(len) };
    // SAFETY: as in `set_offload`.
    unsafe { ioctl::ioctl(fd, call) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn device_names_follow_the_kernels_rule() {
        for good in ["eth0", "a", "pontoon-uplink0", "x.100"] {
            assert!(is_valid_name(good), "{good}");
        }
        for bad in ["", ".", "..", "a b", "a/b", "a:1", "tap%d", "sixteen-bytes-xx", "naïve", "a\n"] {
            assert!(!is_valid_name(bad), "{bad}");
        }
    }

    #[test]
    fn a_descriptor_that_is_no_device_is_refused() {
        let (pipe, _other) = rustix::pipe::pipe().expect("a pipe");
        let null = OwnedFd::from(std::fs::File::open("/dev/null").expect("/dev/null"));
        for fd in [pipe, null] {
            let error = Device::adopt(fd, Kind::Tap).expect_err("not a device");
            assert!(matches!(error, TunError::NotTun { .. }), "{error}");
        }
    }
}
