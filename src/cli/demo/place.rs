//! Network namespaces to show traffic in, and the short-lived processes that make it there.
//!
//! # Theory of operation
//! A [`Place`] is a process that does nothing but hold a network namespace, as a container's first process does. A job
//! is done there by a process of its own ([`Leaf`]), which is forked, enters the namespace, and sends back what came of
//! it as JSON. A server says that it listens before its client is started; nobody sleeps and hopes.
//!
//! # Invariants
//! - Every process here is killed by the kernel when the one that forked it ends, however that ends (PDEATHSIG), so not
//!   even a SIGKILL leaves a namespace behind.
//! - The process that forks has one thread ([`process::fork`] refuses otherwise).

use std::io;
use std::marker::PhantomData;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use rustix::io::FdFlags;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use crate::io::sys::msg;
use crate::io::sys::netns::{self, Netns};
use crate::io::sys::process::{self, Child, Exit};

/// How long one message of a job is waited for: longer than any timeout inside a job, so that the job says itself what
/// it waited for.
const LIMIT: Duration = Duration::from_secs(6);

/// How long the end of a killed process is waited for.
const REAP: Duration = Duration::from_secs(1);

/// Bytes of a message: the results of jobs are a few addresses and numbers, those of the switch a few dozen flows.
const MAX_MESSAGE: usize = 128 * 1024;

/// A network namespace and the process that holds it.
pub struct Place {
    name: &'static str,
    holder: Holder,
    netns: Netns,
}

/// A child that does not outlive this value, and the socket to it.
pub struct Holder {
    child: Child,
    socket: OwnedFd,
}

/// What a child tells.
#[derive(Serialize, Deserialize)]
enum Told<T> {
    /// It listens, or is as far as its parent has to wait for.
    Ready,
    Done(Result<T, String>),
}

/// A child's end of its socket.
pub struct Parent(OwnedFd);

impl Parent {
    /// Tells the parent that the server listens.
    pub fn ready(&self) -> Result<(), String> {
        self.tell(&Told::<()>::Ready)
    }

    /// Tells a result.
    pub fn done<T: Serialize>(&self, result: Result<T, String>) -> Result<(), String> {
        self.tell(&Told::Done(result))
    }

    /// Waits until the parent lets go of the other end.
    pub fn wait(&self) -> Result<(), String> {
        msg::recv(&self.0, &mut [0]).map(drop).map_err(|error| format!("cannot hear the parent: {error}"))
    }

    /// Two copies of it with numbers above the standard streams', for a program to inherit.
    pub fn inheritable(&self) -> io::Result<[OwnedFd; 2]> {
        let copy = || {
            let copy = rustix::io::fcntl_dupfd_cloexec(&self.0, 3)?;
            rustix::io::fcntl_setfd(&copy, FdFlags::empty())?;
            io::Result::Ok(copy)
        };
        Ok([copy()?, copy()?])
    }

    fn tell<T: Serialize>(&self, what: &Told<T>) -> Result<(), String> {
        let bytes = serde_json::to_vec(what).map_err(|error| format!("a result that is not plain data: {error}"))?;
        msg::send(&self.0, &bytes, &[]).map(drop).map_err(|error| format!("cannot tell the parent: {error}"))
    }
}

impl Holder {
    /// Forks a child that runs `body` and ends with this process. Of its parent's file descriptors it has `keep`.
    pub fn fork(keep: Option<&Netns>, body: impl FnOnce(&Parent) -> Result<(), String>) -> io::Result<Self> {
        let (ours, theirs) = msg::pair()?;
        let theirs = Parent(theirs);
        let parent = rustix::process::getpid().as_raw_nonzero().get();
        let fds: Vec<_> = std::iter::once(theirs.0.as_fd()).chain(keep.map(AsFd::as_fd)).collect();
        let child = process::fork(&fds, || {
            let done = process::die_with(parent).map_err(|error| error.to_string()).and_then(|()| body(&theirs));
            // Where the parent is gone, nobody is there to be told.
            u8::from(done.or_else(|why| theirs.done(Err::<(), _>(why))).is_err())
        })?;
        Ok(Self { child, socket: ours })
    }

    pub fn pid(&self) -> i32 {
        self.child.pid()
    }

    /// Waits until the child is ready.
    pub fn ready(&self) -> Result<(), String> {
        match self.hear::<()>()? {
            Told::Ready => Ok(()),
            Told::Done(result) => result.and(Err("it ended before it was ready".into())),
        }
    }

    /// Waits for a result.
    pub fn result<T: DeserializeOwned>(&self) -> Result<T, String> {
        loop {
            if let Told::Done(result) = self.hear()? {
                return result;
            }
        }
    }

    /// Lets go of the child and waits for its end.
    pub fn end(mut self, at_most: Duration) -> Result<(), String> {
        let pid = self.pid();
        rustix::net::shutdown(&self.socket, rustix::net::Shutdown::Both).map_err(|error| error.to_string())?;
        match self.child.wait(at_most) {
            Ok(Some(Exit::Code(0))) => Ok(()),
            Ok(Some(exit)) => Err(format!("process {pid} ended with {exit:?}")),
            Ok(None) => Err(format!("process {pid} has not ended in {} s, and is killed", at_most.as_secs())),
            Err(error) => Err(error.to_string()),
        }
    }

    /// Waits for these very bytes.
    pub fn says(&self, bytes: &[u8]) -> Result<(), String> {
        let said = self.receive()?;
        if said == bytes { Ok(()) } else { Err(format!("it said {:?}", String::from_utf8_lossy(&said))) }
    }

    fn hear<T: DeserializeOwned>(&self) -> Result<Told<T>, String> {
        serde_json::from_slice(&self.receive()?).map_err(|error| format!("not an answer: {error}"))
    }

    fn receive(&self) -> Result<Vec<u8>, String> {
        let told = process::wait_readable(&self.socket, LIMIT).map_err(|error| error.to_string())?;
        if !told {
            return Err(format!("no answer for {} s", LIMIT.as_secs()));
        }
        let mut buf = vec![0; MAX_MESSAGE];
        let received = msg::recv(&self.socket, &mut buf).map_err(|error| error.to_string())?;
        if received.len == 0 {
            return Err("its process ended without a word".into());
        }
        buf.truncate(received.len);
        Ok(buf)
    }
}

impl Drop for Holder {
    fn drop(&mut self) {
        // Both fail where it has ended and was reaped, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait(REAP);
    }
}

impl Place {
    /// Makes a network namespace, which has nothing but a `lo` that is down.
    pub fn new(name: &'static str) -> Result<Self, String> {
        let failed = |why: String| format!("cannot make a network namespace for {name}: {why}");
        let holder = Holder::fork(None, |parent| {
            netns::unshare_net().map_err(|error| error.to_string())?;
            parent.ready()?;
            parent.wait()
        });
        let holder = holder.map_err(|error| failed(error.to_string()))?;
        holder.ready().map_err(failed)?;
        let (netns, _) = Netns::open_pid(holder.pid()).map_err(|error| failed(error.to_string()))?;
        Ok(Self { name, holder, netns })
    }

    /// The process whose namespace it is.
    pub fn pid(&self) -> i32 {
        self.holder.pid()
    }

    /// Gives the namespace up.
    pub fn end(self) -> Result<(), String> {
        self.holder.end(REAP).map_err(|why| format!("{}: {why}", self.name))
    }

    /// Starts a job in a process of its own.
    pub fn start<T: Serialize>(&self, job: impl FnOnce(&Parent) -> Result<T, String>) -> Result<Leaf<T>, String> {
        let process = Holder::fork(Some(&self.netns), |parent| {
            self.netns.enter().map_err(|error| error.to_string())?;
            parent.done(job(parent))
        });
        let process = process.map_err(|error| format!("{}: cannot start a process: {error}", self.name))?;
        Ok(Leaf { place: self.name, process, result: PhantomData })
    }

    /// Starts a server and waits until it listens.
    pub fn serve<T: Serialize>(&self, job: impl FnOnce(&Parent) -> Result<T, String>) -> Result<Leaf<T>, String> {
        let leaf = self.start(job)?;
        leaf.process.ready().map_err(|why| format!("{}: {why}", self.name))?;
        Ok(leaf)
    }

    /// Does a job and waits for what comes of it.
    pub fn run<T: Serialize + DeserializeOwned>(&self, job: impl FnOnce() -> Result<T, String>) -> Result<T, String> {
        self.start(|_| job())?.result()
    }
}

/// A job under way. Dropping it ends it.
pub struct Leaf<T> {
    place: &'static str,
    process: Holder,
    result: PhantomData<T>,
}

impl<T: DeserializeOwned> Leaf<T> {
    /// Waits for the result.
    pub fn result(self) -> Result<T, String> {
        self.process.result().map_err(|why| format!("{}: {why}", self.place))
    }
}
