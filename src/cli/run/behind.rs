//! The switch's own process.

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::time::Duration;

use super::inside::Inside;
use super::{FAILED, NAME, PATIENCE, hear, tell, tell_person};
use crate::cli::Failure;
use crate::cli::config::Settings;
use crate::cli::switch::{Log, failed, raise_descriptor_limit, start, start_helper};
use crate::control::calls::Reply;
use crate::control::plumber::Plumbing;
use crate::control::portspec::{self, PortSpec};
use crate::control::protocol::{ApiError, Attach, Attached, Call, Class};
use crate::control::server::Server;
use crate::io::sys::msg;
use crate::io::sys::process::{self, Child, Exit};

/// How long its end is waited for: it deletes its devices first.
const END: Duration = Duration::from_secs(3);

/// As whom the first call is made: a number that no client has.
const OURSELVES: usize = 0;

/// What it is to be.
pub struct Plan<'a> {
    pub settings: &'a Settings,
    pub network: &'a str,
    pub publish: &'a [PortSpec],
}

/// The running switch. Dropping it ends it, in its own time.
pub struct Switch {
    child: Child,
    socket: OwnedFd,
}

impl Switch {
    /// Forks it; it attaches the process of `inside`.
    pub fn fork(plan: &Plan<'_>, uplink: Option<OwnedFd>, inside: &Inside) -> Result<Self, String> {
        let failed = |error: io::Error| format!("cannot start a process: {error}");
        let (ours, theirs) = msg::pair().map_err(failed)?;
        let mut keep = vec![theirs.as_fd(), inside.child.as_fd()];
        keep.extend(uplink.as_ref().map(AsFd::as_fd));
        let child = process::fork(&keep, || {
            let mut told = false;
            let served = uplink
                .as_ref()
                .map(|fd| fd.as_fd().try_clone_to_owned())
                .transpose()
                .map_err(crate::cli::switch::failed)
                .and_then(|uplink| serve(plan, uplink, inside.child.pid(), &theirs, &mut told));
            let status = match served {
                Ok(()) => 0,
                Err(Failure::Usage(why) | Failure::Failed(why)) => {
                    if told {
                        tell_person(&format!("the switch has failed: {why}"));
                    } else {
                        // Where pontoon has been killed meanwhile, nobody is there to be told.
                        let _ = tell(&theirs, &Err::<Attached, _>(&why));
                    }
                    FAILED
                }
                Err(Failure::Enough) => FAILED,
            };
            // See the invariants in `super`. Where the other end is open, it is for pontoon to kill CMD, and to tell why.
            if process::wait_readable(&theirs, Duration::ZERO).unwrap_or(true) {
                // Fails where CMD has ended, as it should have.
                let _ = inside.child.kill();
            }
            status
        });
        Ok(Self { child: child.map_err(failed)?, socket: ours })
    }

    /// Waits until the network is ready.
    pub fn ready(&self) -> Result<Attached, String> {
        match hear::<Result<Attached, String>>(&self.socket, Some(PATIENCE)) {
            Ok(Some(ready)) => ready,
            Ok(None) => Err("the switch has ended before it was ready".into()),
            Err(error) => Err(format!("the switch does not get ready: {error}")),
        }
    }

    /// How it has ended, if it has; told once.
    pub fn ended(&mut self) -> io::Result<Option<Exit>> {
        self.child.wait(Duration::ZERO)
    }

    /// Ends it: it takes its devices down and its control socket away.
    pub fn end(self) {
        let Self { mut child, socket } = self;
        drop(socket);
        // Reaped already where it ended first.
        if matches!(child.wait(END), Ok(None)) {
            tell_person(&format!("the switch has not ended in {} s, and is killed", END.as_secs()));
            let _ = child.kill();
            let _ = child.wait(END);
        }
    }
}

/// Serves until the other end of `socket` is closed, or somebody asks for the end by the control socket.
fn serve(plan: &Plan<'_>, uplink: Option<OwnedFd>, pid: i32, socket: &OwnedFd, told: &mut bool) -> Result<(), Failure> {
    let settings = plan.settings;
    let log = Log::begin(settings.log);
    raise_descriptor_limit();
    let mut helper = start_helper()?;
    let _log = log.in_background()?;
    let mut server = match &settings.control {
        Some(path) => Server::bind(path),
        None => Server::without_socket(),
    }
    .map_err(failed)?;
    server.end_with(socket.try_clone().map_err(failed)?).map_err(failed)?;
    let (handle, uplink_request) = start(settings, uplink, &mut helper, server.notifier())?;
    let plumbing = Plumbing::new(helper, server.watcher(), uplink_request);
    let attach = Call::Attach(Attach {
        name: NAME.into(),
        network: plan.network.into(),
        ifname: "eth0".into(),
        netns: None,
        pid: Some(pid),
        tap_fd: false,
        ip: None,
        mac: None,
        isolated: false,
        publish: plan.publish.into(),
    });
    let done = server.run_after(handle, plumbing, |calls| {
        let broken = |why: String| ApiError::new(Class::Internal, why);
        let attached = match calls.execute(attach, OURSELVES, &mut VecDeque::new())? {
            Reply::One(value) => {
                serde_json::from_value::<Attached>(value).map_err(|error| broken(error.to_string()))?
            }
            Reply::Many(_) => return Err(broken("attach gave a listing".into())),
        };
        *told = true;
        for one in portspec::chosen(plan.publish, &attached.published) {
            tell_person(&one.arrow());
        }
        // Thousands of ports are too long for a message. Where nobody listens any more, the end of the socket is seen next.
        let _ = tell(socket, &Ok::<_, String>(Attached { published: Vec::new(), ..attached }));
        Ok(())
    });
    done.map_err(failed)
}
