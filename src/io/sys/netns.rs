//! Network namespaces and the user namespaces that own them: opened, identified, entered, made.
//!
//! # Theory of operation
//! `setns` into a network namespace asks for CAP_SYS_ADMIN in the user namespace that owns it. Root has it over all
//! there are. An ordinary user gets it by first joining that user namespace, which the kernel allows to the user who
//! made it, from the namespace it was made in, and only in a process with one thread. So [`Netns::enter`] tries the
//! direct way, and on EPERM asks the kernel for the owner (NS_GET_USERNS) and goes through it.
//!
//! # References
//! namespaces(7), user_namespaces(7), ioctl_ns(2).

use std::io;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};

use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::ioctl::{self, IoctlOutput, Opcode};
use rustix::process::{Pid, PidfdFlags};
use rustix::thread::{LinkNameSpaceType, UnshareFlags};
use serde::{Deserialize, Serialize};

use super::process;

/// Which namespace: the device and inode of its file in the kernel's nsfs. An inode is not used again while anything,
/// such as the TAP of an attachment, keeps the namespace alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct NetnsId {
    pub dev: u64,
    pub ino: u64,
}

impl std::fmt::Display for NetnsId {
    /// As `readlink /proc/self/ns/net` writes it.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "net:[{}]", self.ino)
    }
}

#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    #[error("network namespace {}: {reason}; give the path of one, such as /run/netns/NAME or /proc/PID/ns/net", path.display())]
    Missing { path: PathBuf, reason: Errno },
    #[error("{} is not a network namespace; give the path of one, such as /run/netns/NAME or /proc/PID/ns/net", path.display())]
    NotNetns { path: PathBuf },
    #[error("no process {pid}: it has ended, or it lives in another pid namespace")]
    NoProcess { pid: i32 },
    #[error("the network namespace {target} is not ours to enter as uid {uid}: {reason}")]
    Foreign { target: String, uid: u32, reason: &'static str },
    #[error("cannot {what} {target}: {reason}")]
    Other { what: &'static str, target: String, reason: Errno },
}

const NOT_OWNER: &str = "it belongs to the user namespace of somebody else; run pontoon as the user who made it";
const NO_CAPABILITY: &str = "its user namespace is the one we are in, and there we have no CAP_SYS_ADMIN; run pontoon as root, or in a user namespace of your own (unshare -r)";
const OUTSIDE: &str = "it belongs to a user namespace outside of ours; run pontoon there";
const HIDDEN: &str = "its file is not ours to open; run pontoon as the user whose namespace it is";

/// An open network namespace. Holding one keeps the namespace alive: nothing keeps one for long.
#[derive(Debug)]
pub struct Netns {
    fd: OwnedFd,
    id: NetnsId,
    target: String,
}

impl Netns {
    pub fn open(path: &Path) -> Result<Self, NetnsError> {
        // Not blocking: a FIFO of this name would hold us for ever.
        let flags = OFlags::RDONLY | OFlags::CLOEXEC | OFlags::NONBLOCK;
        let fd = rustix::fs::open(path, flags, Mode::empty()).map_err(|reason| match reason {
            Errno::NOENT | Errno::NOTDIR | Errno::NAMETOOLONG | Errno::LOOP => {
                NetnsError::Missing { path: path.into(), reason }
            }
            Errno::ACCESS | Errno::PERM => NetnsError::Foreign {
                target: path.display().to_string(),
                uid: rustix::process::geteuid().as_raw(),
                reason: HIDDEN,
            },
            Errno::NXIO => NetnsError::NotNetns { path: path.into() },
            reason => {
                NetnsError::Other { what: "open the network namespace", target: path.display().to_string(), reason }
            }
        })?;
        if !is_network_namespace(&fd) {
            return Err(NetnsError::NotNetns { path: path.into() });
        }
        Self::of(fd, path.display().to_string())
    }

    /// The network namespace of a process, and a pidfd of that very process.
    pub fn open_pid(pid: i32) -> Result<(Self, OwnedFd), NetnsError> {
        // `from_raw` must not see a negative number.
        let known = Some(pid).filter(|&pid| pid > 0).and_then(Pid::from_raw);
        let known = known.ok_or(NetnsError::NoProcess { pid })?;
        let pidfd = rustix::process::pidfd_open(known, PidfdFlags::empty()).map_err(|reason| match reason {
            Errno::SRCH | Errno::INVAL => NetnsError::NoProcess { pid },
            reason => NetnsError::Other { what: "watch", target: format!("process {pid}"), reason },
        })?;
        let netns = match Self::open(Path::new(&format!("/proc/{pid}/ns/net"))) {
            Err(NetnsError::Missing { .. }) => return Err(NetnsError::NoProcess { pid }),
            Err(NetnsError::Foreign { uid, reason, .. }) => {
                let target = format!("of process {pid}");
                return Err(NetnsError::Foreign { target, uid, reason });
            }
            other => other?,
        };
        // Alive after the open means that the number was not reused between pidfd and path.
        if process::has_ended(&pidfd) {
            return Err(NetnsError::NoProcess { pid });
        }
        Ok((netns, pidfd))
    }

    fn of(fd: OwnedFd, target: String) -> Result<Self, NetnsError> {
        match rustix::fs::fstat(&fd) {
            Ok(stat) => Ok(Self { id: id_of(&stat), fd, target }),
            Err(reason) => Err(NetnsError::Other { what: "identify the network namespace", target, reason }),
        }
    }

    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Moves the calling thread into this namespace, through the user namespace that owns it where that is needed (then
    /// the process must have one thread, and there is no way back).
    pub fn enter(&self) -> Result<(), NetnsError> {
        // Asked now: in the user namespace of the target it has another number.
        let uid = rustix::process::geteuid().as_raw();
        let foreign = |reason| NetnsError::Foreign { target: self.target.clone(), uid, reason };
        let other = |what| move |reason| NetnsError::Other { what, target: self.target.clone(), reason };
        let join = |fd: BorrowedFd<'_>, kind| rustix::thread::move_into_link_name_space(fd, Some(kind));
        match join(self.fd.as_fd(), LinkNameSpaceType::Network) {
            Err(Errno::PERM) => {}
            done => return done.map_err(other("enter the network namespace")),
        }
        let owner = owner(&self.fd).map_err(|reason| match reason {
            Errno::PERM => foreign(OUTSIDE),
            reason => other("find the user namespace of")(reason),
        })?;
        let same = || -> io::Result<bool> {
            let ours = rustix::fs::stat("/proc/self/ns/user")?;
            let theirs = rustix::fs::fstat(&owner)?;
            Ok(id_of(&ours) == id_of(&theirs))
        };
        if same().unwrap_or(false) {
            return Err(foreign(NO_CAPABILITY));
        }
        match join(owner.as_fd(), LinkNameSpaceType::User) {
            Ok(()) => {}
            Err(Errno::PERM) => return Err(foreign(NOT_OWNER)),
            Err(reason) => return Err(other("join the user namespace of")(reason)),
        }
        join(self.fd.as_fd(), LinkNameSpaceType::Network).map_err(|reason| match reason {
            Errno::PERM => foreign(NOT_OWNER),
            reason => other("enter the network namespace")(reason),
        })
    }
}

impl AsFd for Netns {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.fd.as_fd()
    }
}

/// The network namespace of the calling thread.
pub fn current() -> io::Result<NetnsId> {
    Ok(id_of(&rustix::fs::stat("/proc/thread-self/ns/net")?))
}

/// Which file `path` leads to; for the path of a namespace the id of that namespace.
pub fn identify(path: &Path) -> io::Result<NetnsId> {
    Ok(id_of(&rustix::fs::stat(path)?))
}

fn id_of(stat: &rustix::fs::Stat) -> NetnsId {
    NetnsId { dev: stat.st_dev, ino: stat.st_ino }
}

fn is_network_namespace(fd: &OwnedFd) -> bool {
    let on_nsfs = rustix::fs::fstatfs(fd).is_ok_and(|fs| i128::from(fs.f_type) == i128::from(libc::NSFS_MAGIC));
    // SAFETY: NS_GET_NSTYPE takes nothing and answers with its return value; only asked of a file of the nsfs.
    on_nsfs && unsafe { ioctl::ioctl(fd, Answer::<{ libc::NS_GET_NSTYPE as Opcode }>) } == Ok(libc::CLONE_NEWNET)
}

fn owner(fd: &OwnedFd) -> Result<OwnedFd, Errno> {
    use std::os::fd::FromRawFd;
    // SAFETY: NS_GET_USERNS takes nothing; `fd` was found to be a file of the nsfs. The answer is a new file descriptor
    // that nobody else knows.
    unsafe {
        let raw = ioctl::ioctl(fd, Answer::<{ libc::NS_GET_USERNS as Opcode }>)?;
        Ok(OwnedFd::from_raw_fd(raw))
    }
}

/// An ioctl without an argument whose answer is its return value: the one pattern rustix has not.
struct Answer<const OPCODE: Opcode>;

// SAFETY: no memory is passed, so none can be misused.
unsafe impl<const OPCODE: Opcode> ioctl::Ioctl for Answer<OPCODE> {
    type Output = i32;
    const IS_MUTATING: bool = false;

    fn opcode(&self) -> Opcode {
        OPCODE
    }

    fn as_ptr(&mut self) -> *mut core::ffi::c_void {
        std::ptr::null_mut()
    }

    unsafe fn output_from_ptr(answer: IoctlOutput, _: *mut core::ffi::c_void) -> rustix::io::Result<i32> {
        Ok(answer)
    }
}

/// Puts the process, which must have one thread, into a new user namespace in which it is root and has every
/// capability. The one id outside is the caller's own.
pub fn unshare_user() -> io::Result<()> {
    unshare_user_as(0, 0)
}

/// The same, but that the caller's ids have these numbers inside. A program that is run then by another than uid 0 has no
/// capability any more (capabilities(7)).
pub fn unshare_user_as(inside_uid: u32, inside_gid: u32) -> io::Result<()> {
    let (uid, gid) = (rustix::process::geteuid().as_raw(), rustix::process::getegid().as_raw());
    unshare(UnshareFlags::NEWUSER)?;
    // user_namespaces(7): without CAP_SETGID outside, setgroups must be given up before a gid may be mapped.
    std::fs::write("/proc/self/setgroups", "deny")?;
    std::fs::write("/proc/self/uid_map", format!("{inside_uid} {uid} 1"))?;
    std::fs::write("/proc/self/gid_map", format!("{inside_gid} {gid} 1"))
}

/// Puts the calling thread into a new network namespace, which has nothing but a `lo` that is down.
pub fn unshare_net() -> io::Result<()> {
    unshare(UnshareFlags::NEWNET)
}

/// Puts the calling thread into a new mount namespace, from which no mount gets out.
pub fn unshare_mounts() -> io::Result<()> {
    use rustix::mount::{MountPropagationFlags, mount_change};
    unshare(UnshareFlags::NEWNS)?;
    Ok(mount_change("/", MountPropagationFlags::REC | MountPropagationFlags::PRIVATE)?)
}

/// Gives the current network namespace a name as `ip netns add` does: its nsfs file mounted on a new file `path`.
pub fn pin(path: &Path) -> io::Result<()> {
    std::fs::File::create_new(path)?;
    Ok(rustix::mount::mount_bind("/proc/thread-self/ns/net", path)?)
}

/// Takes the name away as `ip netns del` does: unmount, then unlink.
pub fn unpin(path: &Path) -> io::Result<()> {
    rustix::mount::unmount(path, rustix::mount::UnmountFlags::DETACH)?;
    std::fs::remove_file(path)
}

fn unshare(flags: UnshareFlags) -> io::Result<()> {
    debug_assert!(!flags.contains(UnshareFlags::FILES));
    // SAFETY: the one danger is an unshared table of file descriptors (CLONE_FILES), which nobody here asks for.
    Ok(unsafe { rustix::thread::unshare_unsafe(flags) }?)
}
