//! How long an attachment lives, and how its end is noticed.
//!
//! # Theory of operation
//! The file descriptor of a TAP keeps its network namespace alive, and silent: when the last process in there ends,
//! nothing happens on the descriptor. So every attachment has a lifetime of its own. A process: its pidfd becomes
//! readable. A path: it no longer leads to the inode it led to at attach (`ip netns del` unmounts, then unlinks). Held:
//! until somebody detaches it.
//!
//! A path is looked at when something happened to it: inotify on its directory (one instance for all, [`Watcher`]: a
//! user has 128 of them) tells of files that come and go, and /proc/self/mountinfo of mounts. So at rest nothing wakes.
//! Only where neither tells (a path in /proc, a symbolic link, a directory that cannot be watched) is it looked at every
//! [`CHECK_EVERY`].
//!
//! # Limits
//! A check is a `stat`: on a file system that hangs, it hangs. Only paths that answered at attach come here, and the
//! thread that checks them is not the one that carries frames.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd, BorrowedFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::fs::inotify;
use rustix::io::Errno;

use super::sys::netns::{self, NetnsId};
use super::sys::process;

/// How often paths are looked at of which nothing tells.
pub const CHECK_EVERY: Duration = Duration::from_secs(1);

/// The lifetime of an attachment.
#[derive(Debug)]
pub enum Life {
    /// As long as this process runs.
    Pid(OwnedFd),
    /// As long as the path leads to this namespace.
    Path(WatchedPath),
    /// Until it is detached.
    Held,
}

/// Why an attachment is over.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Gone {
    ProcessEnded,
    PathRemoved,
    /// The path leads to something else now: another namespace, or the bare file under an unmounted one.
    PathChanged,
}

impl fmt::Display for Gone {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::ProcessEnded => "its process has ended",
            Self::PathRemoved => "its netns path was removed",
            Self::PathChanged => "its netns path leads elsewhere now",
        })
    }
}

impl Life {
    /// The life of the namespace `id` at `path`.
    pub fn of_path(watcher: &Watcher, path: &Path, id: NetnsId) -> Self {
        Self::Path(watcher.watch(path, id))
    }

    /// What becomes readable at the end, if anything does. Paths share the [`Watcher`]'s.
    pub fn fd(&self) -> Option<BorrowedFd<'_>> {
        match self {
            Self::Pid(pidfd) => Some(pidfd.as_fd()),
            Self::Path(_) | Self::Held => None,
        }
    }

    /// Whether [`Life::check`] is to be called every [`CHECK_EVERY`], besides after each event of the [`Watcher`].
    pub fn needs_checks(&self) -> bool {
        match self {
            Self::Path(watched) => !watched.told,
            Self::Pid(_) | Self::Held => false,
        }
    }

    /// Whether it is over.
    pub fn check(&self) -> Option<Gone> {
        match self {
            Self::Pid(pidfd) => process::has_ended(pidfd).then_some(Gone::ProcessEnded),
            Self::Path(watched) => watched.check(),
            Self::Held => None,
        }
    }
}

/// A netns path that is looked after.
#[derive(Debug)]
pub struct WatchedPath {
    path: PathBuf,
    id: NetnsId,
    watcher: Watcher,
    /// Whatever ends it comes with an event.
    told: bool,
}

impl WatchedPath {
    pub fn path(&self) -> &Path {
        &self.path
    }

    fn check(&self) -> Option<Gone> {
        match netns::identify(&self.path) {
            Ok(id) if id == self.id => None,
            Ok(_) => Some(Gone::PathChanged),
            Err(error) => match Errno::from_io_error(&error) {
                Some(Errno::NOENT | Errno::NOTDIR | Errno::LOOP) => Some(Gone::PathRemoved),
                // Not being allowed to look, or no memory to, is no proof of an end.
                _ => None,
            },
        }
    }
}

impl Drop for WatchedPath {
    fn drop(&mut self) {
        self.watcher.forget(&self.path);
    }
}

/// One inotify instance over the directories of all watched paths.
#[derive(Debug, Clone)]
pub struct Watcher(Arc<Shared>);

#[derive(Debug)]
struct Shared {
    inotify: OwnedFd,
    /// /proc/self/mountinfo, which has an exceptional condition when a mount came or went (proc(5)).
    mounts: Option<OwnedFd>,
    directories: Mutex<BTreeMap<PathBuf, Watched>>,
}

/// A directory: its watch, and how many paths are in it.
#[derive(Debug)]
struct Watched {
    descriptor: i32,
    paths: usize,
}

impl Watcher {
    pub fn new() -> io::Result<Self> {
        let inotify = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
        let mounts = match std::fs::File::open("/proc/self/mountinfo") {
            Ok(file) => Some(file.into()),
            Err(error) => {
                log::debug!("/proc/self/mountinfo: {error}; netns paths are looked at every second instead");
                None
            }
        };
        Ok(Self(Arc::new(Shared { inotify, mounts, directories: Mutex::default() })))
    }

    /// What has a priority event (`EPOLLPRI`) when a mount came or went: then the paths are to be checked.
    pub fn mounts(&self) -> Option<BorrowedFd<'_>> {
        self.0.mounts.as_ref().map(OwnedFd::as_fd)
    }

    /// Reads what has happened; whether anything did, so that the paths are to be checked.
    pub fn drain(&self) -> bool {
        let mut buf = [MaybeUninit::uninit(); 4096];
        let mut reader = inotify::Reader::new(&self.0.inotify, &mut buf);
        let mut any = false;
        while reader.next().is_ok() {
            any = true;
        }
        any
    }

    fn watch(&self, path: &Path, id: NetnsId) -> WatchedPath {
        use inotify::WatchFlags;
        let directory = directory_of(path);
        let mut directories = self.0.directories.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watched) = directories.get_mut(&directory) {
            watched.paths += 1;
        } else {
            let events = WatchFlags::DELETE
                | WatchFlags::MOVED_FROM
                | WatchFlags::MOVED_TO
                | WatchFlags::DELETE_SELF
                | WatchFlags::MOVE_SELF;
            // Without a watch (no more of them) the regular checks are enough.
            match inotify::add_watch(&self.0.inotify, &directory, events | WatchFlags::ONLYDIR) {
                Ok(descriptor) => {
                    directories.insert(directory.clone(), Watched { descriptor, paths: 1 });
                }
                Err(error) => log::debug!("{}: not watched: {error}", directory.display()),
            }
        }
        let plain = std::fs::symlink_metadata(path).is_ok_and(|file| !file.file_type().is_symlink());
        let real = directory.canonicalize().is_ok_and(|directory| !directory.starts_with("/proc"));
        let told = plain && real && self.0.mounts.is_some() && directories.contains_key(&directory_of(path));
        WatchedPath { path: path.into(), id, watcher: self.clone(), told }
    }

    fn forget(&self, path: &Path) {
        let directory = directory_of(path);
        let mut directories = self.0.directories.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(watched) = directories.get_mut(&directory) {
            watched.paths -= 1;
            if watched.paths == 0 {
                // Fails when the directory itself is gone, and its watch with it.
                let _ = inotify::remove_watch(&self.0.inotify, watched.descriptor);
                directories.remove(&directory);
            }
        }
    }
}

impl AsFd for Watcher {
    /// Readable when something happened in a watched directory.
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.inotify.as_fd()
    }
}

fn directory_of(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent.into(),
        _ => PathBuf::from("."),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Any file will do: a life is about an inode, not about what it is.
    fn watched_file(watcher: &Watcher, path: &Path) -> Life {
        std::fs::write(path, "").expect("a file");
        Life::of_path(watcher, path, netns::identify(path).expect("just written"))
    }

    #[test]
    fn a_removed_path_is_noticed_at_once() {
        let dir = tempfile::tempdir().expect("a directory");
        let watcher = Watcher::new().expect("inotify");
        let path = dir.path().join("c1");
        let life = watched_file(&watcher, &path);
        watcher.drain();
        assert_eq!(life.check(), None);
        std::fs::remove_file(&path).expect("removed");
        assert!(process::wait_readable(&watcher, Duration::from_secs(5)).expect("polled"));
        assert!(watcher.drain());
        assert_eq!(life.check(), Some(Gone::PathRemoved));
        assert!(!watcher.drain(), "an event is told once");
    }

    #[test]
    fn only_a_path_of_which_nothing_tells_is_looked_at_regularly() {
        let dir = tempfile::tempdir().expect("a directory");
        let watcher = Watcher::new().expect("inotify");
        let life = watched_file(&watcher, &dir.path().join("c1"));
        assert!(!life.needs_checks(), "its directory and the mounts tell");
        let link = dir.path().join("link");
        std::os::unix::fs::symlink(dir.path().join("c1"), &link).expect("a link");
        for path in [link.as_path(), Path::new("/proc/self/ns/net"), Path::new("/proc/self/mountinfo")] {
            let life = Life::of_path(&watcher, path, netns::identify(path).expect("there"));
            assert!(life.needs_checks(), "{}", path.display());
        }
    }

    #[test]
    fn a_replaced_path_is_another_one() {
        let dir = tempfile::tempdir().expect("a directory");
        let watcher = Watcher::new().expect("inotify");
        let path = dir.path().join("c1");
        let life = watched_file(&watcher, &path);
        std::fs::write(dir.path().join("new"), "").expect("a file");
        watcher.drain();
        std::fs::rename(dir.path().join("new"), &path).expect("renamed over it");
        assert!(watcher.drain());
        assert_eq!(life.check(), Some(Gone::PathChanged));
    }

    #[test]
    fn one_directory_is_watched_as_long_as_a_path_in_it_is() {
        let dir = tempfile::tempdir().expect("a directory");
        let watcher = Watcher::new().expect("inotify");
        let first = watched_file(&watcher, &dir.path().join("c1"));
        let second = watched_file(&watcher, &dir.path().join("c2"));
        drop(first);
        watcher.drain();
        std::fs::remove_file(dir.path().join("c2")).expect("removed");
        assert!(watcher.drain(), "c2 is still watched");
        drop(second);
        watcher.drain();
        std::fs::write(dir.path().join("c3"), "").expect("a file");
        std::fs::remove_file(dir.path().join("c3")).expect("removed");
        assert!(!watcher.drain(), "nobody cares any more");
    }

    #[test]
    fn a_process_lives_until_it_ends() {
        let mut sleeper = std::process::Command::new("cat").stdin(std::process::Stdio::piped()).spawn().expect("cat");
        let pid = rustix::process::Pid::from_child(&sleeper);
        let pidfd = rustix::process::pidfd_open(pid, rustix::process::PidfdFlags::empty()).expect("a pidfd");
        let life = Life::Pid(pidfd);
        assert_eq!(life.check(), None);
        drop(sleeper.stdin.take());
        assert!(process::wait_readable(life.fd().expect("pollable"), Duration::from_secs(5)).expect("polled"));
        assert_eq!(life.check(), Some(Gone::ProcessEnded));
        sleeper.wait().expect("reaped");
    }
}
