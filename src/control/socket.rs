//! The socket that the server listens on: made for one user, and only over a dead one.
//!
//! # Theory of operation
//! What stands at the path is judged by a connection attempt: answered means that a pontoon is alive there, refused
//! that its process is dead and only the name is left. Two that start at once are kept apart by a lock on the directory.
//! The mode is set between `bind` and `listen`, when nobody can connect yet.

use std::fs::File;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::fs::FileTypeExt;
use std::os::unix::fs::MetadataExt;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{FlockOperation, Mode};
use rustix::io::Errno;
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};

/// unix(7): `sun_path` is 108 bytes with its final zero.
pub const MAX_PATH: usize = 107;

/// Connections that wait to be accepted; the 65th is closed anyway.
const BACKLOG: i32 = 64;

/// Another pontoon holds the lock on the directory for a moment; whoever may open it can hold it for ever.
const LOCK_WITHIN: Duration = Duration::from_secs(2);
/// Between two tries.
const LOCK_PAUSE: Duration = Duration::from_millis(20);

/// Why there is no socket.
#[derive(Debug, thiserror::Error)]
pub enum SocketError {
    #[error(
        "control socket: the path is {len} bytes long and a Unix socket takes {MAX_PATH}; give a shorter one with --control: {path}"
    )]
    TooLong { len: usize, path: PathBuf },
    #[error("control socket {path}: there is no directory {directory}; make it, or give another path with --control")]
    NoDirectory { path: PathBuf, directory: PathBuf },
    #[error(
        "control socket {path}: another pontoon is listening on it; stop that one, or give another path with --control"
    )]
    Taken { path: PathBuf },
    #[error(
        "control socket {path}: another process has locked {directory} for {} s; see who (lslocks), or give another path with --control",
        LOCK_WITHIN.as_secs()
    )]
    Locked { path: PathBuf, directory: PathBuf },
    #[error(
        "control socket {path}: something that is not a socket is there; remove it, or give another path with --control"
    )]
    NotASocket { path: PathBuf },
    #[error(
        "control socket {path}: cannot {step}: {why}; see who may write there, or give another path with --control"
    )]
    Other { path: PathBuf, step: &'static str, why: io::Error },
}

/// A listening socket; its name goes with it.
#[derive(Debug)]
pub struct ControlSocket {
    listener: UnixListener,
    path: PathBuf,
    /// The name is removed only if it is still this one.
    inode: (u64, u64),
}

impl ControlSocket {
    /// Listens on `path`, mode 0600, non-blocking. The name of a dead pontoon is replaced.
    pub fn bind(path: &Path) -> Result<ControlSocket, SocketError> {
        let len = path.as_os_str().len();
        if len > MAX_PATH {
            return Err(SocketError::TooLong { len, path: path.into() });
        }
        let other = |step| move |why: io::Error| SocketError::Other { path: path.into(), step, why };
        let address = SocketAddrUnix::new(path).map_err(|errno| other("use this path")(errno.into()))?;
        let _lock = lock_directory(path)?;
        remove_dead(path)?;

        let socket = rustix::net::socket_with(
            AddressFamily::UNIX,
            SocketType::STREAM,
            SocketFlags::CLOEXEC | SocketFlags::NONBLOCK,
            None,
        )
        .map_err(|errno| other("make a socket")(errno.into()))?;
        rustix::net::bind(&socket, &address).map_err(|errno| other("put a socket there")(errno.into()))?;
        let made = Self::listen(socket, path);
        if made.is_err() {
            // It is ours: bind made it, under the lock.
            let _ = std::fs::remove_file(path);
        }
        made.map_err(other("listen"))
    }

    fn listen(socket: OwnedFd, path: &Path) -> io::Result<ControlSocket> {
        rustix::fs::chmod(path, Mode::RUSR | Mode::WUSR)?;
        rustix::net::listen(&socket, BACKLOG)?;
        let meta = std::fs::symlink_metadata(path)?;
        Ok(ControlSocket { listener: socket.into(), path: path.into(), inode: (meta.dev(), meta.ino()) })
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// The next client, if one waits; `Err(PermissionDenied)`: one came that may not, and was turned away.
    pub fn accept(&self) -> io::Result<UnixStream> {
        let (stream, _) = self.listener.accept()?;
        stream.set_nonblocking(true)?;
        let peer = rustix::net::sockopt::socket_peercred(&stream)?;
        if peer.uid == rustix::process::geteuid() || peer.uid.is_root() {
            Ok(stream)
        } else {
            Err(io::Error::new(
                io::ErrorKind::PermissionDenied,
                format!(
                    "process {} of uid {} may not control this switch",
                    peer.pid.as_raw_nonzero(),
                    peer.uid.as_raw()
                ),
            ))
        }
    }

    /// The listening socket, to be polled.
    pub fn listener(&self) -> &UnixListener {
        &self.listener
    }
}

impl Drop for ControlSocket {
    fn drop(&mut self) {
        let ours = std::fs::symlink_metadata(&self.path).is_ok_and(|meta| (meta.dev(), meta.ino()) == self.inode);
        if ours && let Err(error) = std::fs::remove_file(&self.path) {
            log::warn!("control socket {}: cannot remove it: {error}", self.path.display());
        }
    }
}

/// Released with the file.
#[expect(clippy::disallowed_methods, reason = "only at the start, when nobody is served yet")]
fn lock_directory(path: &Path) -> Result<File, SocketError> {
    let directory = match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    };
    let other = |step| move |why| SocketError::Other { path: path.into(), step, why };
    let file = match File::open(directory) {
        Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::NotADirectory) => {
            return Err(SocketError::NoDirectory { path: path.into(), directory: directory.into() });
        }
        file => file.map_err(other("open its directory"))?,
    };
    for _ in 0..LOCK_WITHIN.div_duration_f32(LOCK_PAUSE) as u32 {
        match rustix::fs::flock(&file, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => return Ok(file),
            Err(Errno::WOULDBLOCK | Errno::INTR) => std::thread::sleep(LOCK_PAUSE),
            Err(errno) => return Err(other("lock its directory")(errno.into())),
        }
    }
    Err(SocketError::Locked { path: path.into(), directory: directory.into() })
}

fn remove_dead(path: &Path) -> Result<(), SocketError> {
    match std::fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Ok(meta) if meta.file_type().is_socket() => {}
        Ok(_) => return Err(SocketError::NotASocket { path: path.into() }),
        Err(why) => {
            return Err(SocketError::Other { path: path.into(), step: "look at what is there", why });
        }
    }
    match knock(path) {
        Ok(()) => Err(SocketError::Taken { path: path.into() }),
        Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
            log::info!("control socket {}: left over from a dead process; replaced", path.display());
            std::fs::remove_file(path).map_err(|why| SocketError::Other {
                path: path.into(),
                step: "remove the one of a dead process",
                why,
            })
        }
        Err(why) => Err(SocketError::Other { path: path.into(), step: "see whether somebody listens there", why }),
    }
}

/// Does somebody listen there? A full backlog (EAGAIN) is somebody who is alive; it is not waited for.
fn knock(path: &Path) -> io::Result<()> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None)?;
    match rustix::net::connect(&socket, &SocketAddrUnix::new(path)?) {
        Ok(()) | Err(Errno::AGAIN) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn directory() -> tempfile::TempDir {
        tempfile::tempdir().expect("a directory")
    }

    #[test]
    fn the_socket_is_its_users_alone_and_its_name_goes_with_it() {
        let dir = directory();
        let path = dir.path().join("p.sock");
        let socket = ControlSocket::bind(&path).expect("bound");
        let mode = std::fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
        drop(socket);
        assert!(!path.exists());
    }

    #[test]
    fn a_name_that_is_somebody_elses_by_now_is_left_alone() {
        let dir = directory();
        let path = dir.path().join("p.sock");
        let socket = ControlSocket::bind(&path).expect("bound");
        std::fs::remove_file(&path).expect("removed");
        std::fs::write(&path, "").expect("another file");
        drop(socket);
        assert!(path.exists());
    }

    #[test]
    fn a_dead_ones_socket_is_replaced_and_a_living_ones_is_not() {
        let dir = directory();
        let path = dir.path().join("p.sock");
        // std's listener leaves its name behind, as a killed process does.
        drop(UnixListener::bind(&path).expect("bound"));
        assert!(path.exists());
        let alive = ControlSocket::bind(&path).expect("replaced");
        let error = ControlSocket::bind(&path).expect_err("refused").to_string();
        assert!(error.contains("another pontoon is listening on it"), "{error}");
        UnixStream::connect(&path).expect("still there");
        drop(alive);
    }

    #[test]
    fn a_directory_that_somebody_keeps_locked_does_not_hold_the_start_up_for_ever() {
        let dir = directory();
        let lock = lock_directory(&dir.path().join("other")).expect("free");
        let error = ControlSocket::bind(&dir.path().join("p.sock")).expect_err("locked").to_string();
        assert!(error.contains("has locked") && !error.contains('\n'), "{error}");
        drop(lock);
        ControlSocket::bind(&dir.path().join("p.sock")).expect("free again");
    }

    #[test]
    fn a_path_that_cannot_be_is_one_clear_line() {
        let dir = directory();
        let long = dir.path().join("x".repeat(MAX_PATH));
        let missing = dir.path().join("no/p.sock");
        let file = dir.path().join("file");
        std::fs::write(&file, "precious").expect("a file");
        for (path, says) in
            [(&long, "a Unix socket takes 107"), (&missing, "there is no directory"), (&file, "not a socket")]
        {
            let error = ControlSocket::bind(path).expect_err(says).to_string();
            assert!(error.contains(says) && error.contains("--control") && !error.contains('\n'), "{error}");
        }
        assert_eq!(std::fs::read_to_string(&file).expect("untouched"), "precious");
    }

    #[test]
    fn a_path_of_exactly_the_limit_is_taken() {
        let dir = directory();
        let room = MAX_PATH - dir.path().as_os_str().len() - 1;
        ControlSocket::bind(&dir.path().join("x".repeat(room))).expect("107 bytes fit");
    }
}
