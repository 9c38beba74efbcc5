//! The event loop: owns the datapath and every device, reads frames and hands them to the core.
//!
//! # Theory of operation
//! One thread, one `mio::Poll`. mio is edge-triggered: after a partial read no event ever comes again, so readiness is
//! latched on lists of our own. Each turn serves every ready port once, by deficit round robin, then ready sockets of the
//! host ([`super::sockets`]), one of each container in turn:
//!
//! ```text
//!  turn:  poll (not waiting while anybody is ready) -> timers due -> requests
//!         -> each ready port:   read one frame -> Datapath::input -> (write, write, ...)
//!                               until EAGAIN or the port's budget is spent -> Datapath::flush
//!         -> ready sockets:     Datapath::socket_ready -> (write, write, ...)
//!                               until none is ready or the sockets' budget is spent; Datapath::flush after each few
//! ```
//!
//! The sockets' budget of a turn is as large as that of all ports that were ready, at least one port's. So data from the
//! host, of however many connections, does not hold up the containers' acknowledgements of it, nor the other way round.
//!
//! A frame is charged its length, but at least [`MIN_CHARGE`], and so is each transmission it caused after the first (a
//! broadcast on a large switch is many writes). Time is charged too, because a write runs the receiver's whole stack: a
//! container with 40,000 firewall rules makes ours 35 times as slow. So neither a busy port nor a slow receiver holds up
//! the others for longer than a turn's budget. A batch is bounded by bytes and not by frames, so that 64 KiB
//! super-frames stay in the cache.
//!
//! What a container's frames come to is looked at, too ([`Worth`]): those that come to nothing are paid for out of the port's
//! [`Allowance`], by the clock. A port that has none left is *held*: neither read nor watched until it has some again. So the
//! loop sleeps beside a container that sends garbage as fast as it can.
//!
//! Short frames wait in an [`Outbox`] to be written together. The first frame of a port's turn is written at once, for then
//! nothing is known to come after it.
//!
//! To be woken costs more than a short exchange: the waker's CPU interrupts ours, which may have to leave its sleep. So
//! after a turn that moved little the loop may look for what comes next for [`LOOK`] before it sleeps ([`Patience`]).
//!
//! Other threads put a [`Job`] into the channel and wake the loop; jobs run between turns.
//!
//! # Limits
//! [`LOOK`] of looking before a sleep, and none with nothing to wait for; [`QUANTUM`] bytes a port and turn; [`SOCKET_QUANTUM`]
//! a socket; [`JOBS_PER_TURN`] jobs a turn; [`BATCH`] frames between two looks at the clock, and of up to [`SHORT`] bytes between
//! two writings.

use std::collections::{BTreeSet, VecDeque};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd, AsRawFd};
use std::sync::Arc;
use std::thread::JoinHandle;

use crossbeam_channel::{Receiver, RecvTimeoutError, Sender, bounded};
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Token, Waker};
use rustix::io::Errno;

use super::allowance::Tally;
use super::clock::Clock;
use super::devices::{Devices, Entry, Role};
use super::outbox::{BATCH, Outbox, SHORT, Takes};
use super::patience::{LOOK, Patience};
use super::pcap::Capture;
use super::sockets::{self, HostSockets};
use super::switch::{ANSWER_WITHIN, NotAdded, Notice, Notifier, Switch, SwitchError};
use super::tap::{ReadError, TapPort};
use super::uplink::Uplink;
use crate::core::command::{Answer, Applied, Command, Query, SocketUplinkConfig, UplinkConfig};
use crate::core::datapath::{Config, Datapath};
use crate::core::flush::{Progress, Unfinished};
use crate::core::port::PortId;
use crate::core::socket::{Ready, Sockets};
use crate::core::split::ping;
use crate::core::time::Instant;
use crate::core::world::{Point, Sent, World};
use crate::core::worth::Worth;
use crate::frame::{BUFFER_LEN, Caps, FrameOut, Link};

/// What a port may spend in one turn, bytes.
const QUANTUM: i64 = 256 * 1024;
/// What a socket may spend before it is another's turn, bytes.
const SOCKET_QUANTUM: i64 = 128 * 1024;
/// Descriptors that come with a port: its device, and what watches its lifetime.
const PORT_DESCRIPTORS: isize = 2;
/// The least that a frame or a transmission costs, bytes: system calls cost the same for a small one.
const MIN_CHARGE: i64 = 4096;
/// What a microsecond costs, bytes: about the rate of small frames and of super-frames alike.
const CHARGE_PER_MICRO: i64 = 2048;
/// Jobs between two turns.
const JOBS_PER_TURN: usize = 16;
/// Jobs under way.
const MAX_JOBS: usize = 64;
const WAKE: Token = Token(usize::MAX);

/// What another thread wants done.
enum Job {
    Apply(Command, Sender<Result<Applied, SwitchError>>),
    Query(Query, Sender<Answer>),
    AddPort(PortId, TapPort, Sender<Result<(), NotAdded<TapPort>>>),
    RemovePort(PortId, Sender<Option<TapPort>>),
    /// Answered with the capture before, for the asker to finish: the loop waits for no disk.
    Capture(Option<File>, Sender<Result<Option<Capture>, SwitchError>>),
    Shutdown,
}

/// What reading a few frames of a port came to.
struct Batch {
    /// Bytes to be charged.
    charge: i64,
    tally: Tally,
    end: End,
}

/// How reading from a port ended.
enum End {
    /// Not at all.
    More,
    Empty,
    Gone,
}

/// The world as the core sees it: devices, maybe the host's sockets, and maybe somebody who captures.
struct Wire {
    devices: Devices,
    outbox: Outbox,
    sockets: Option<HostSockets>,
    capture: Option<Capture>,
    patience: Patience,
}

impl World for Wire {
    #[inline]
    fn transmit(&mut self, port: PortId, frame: FrameOut<'_>) -> Sent {
        self.patience.moved(frame.packet().len());
        if !self.outbox.is_empty() {
            self.outbox.write(&mut self.devices); // no frame overtakes another
        }
        self.devices.write(port, frame)
    }

    #[inline]
    fn defer(&mut self, port: PortId, frame: FrameOut<'_>) -> bool {
        self.outbox.take(port, frame)
    }

    #[inline]
    fn sockets(&mut self) -> Option<&mut dyn Sockets> {
        self.sockets.as_mut().map(|sockets| sockets as &mut dyn Sockets)
    }

    #[inline]
    fn capturing(&self) -> bool {
        self.capture.is_some()
    }

    fn capture(&mut self, point: Point, port: PortId, frame: FrameOut<'_>, link: Link) {
        if let Some(capture) = &mut self.capture
            && !capture.frame(point, port, frame, link)
        {
            self.capture = None;
        }
    }
}

/// The running loop, from outside. See [`Switch`].
pub struct LoopHandle {
    jobs: Sender<Job>,
    waker: Arc<Waker>,
    thread: JoinHandle<()>,
}

/// What a loop starts with.
pub struct Start {
    /// The core's configuration.
    pub config: Config,
    /// The way to the world.
    pub uplink: Option<StartUplink>,
    /// 32 random bytes.
    pub seed: [u8; 32],
    /// Where the loop tells what happened.
    pub notifier: Notifier,
}

/// The way to the world that a loop starts with.
#[derive(Debug)]
pub enum StartUplink {
    /// A TUN, and what the core is to know of it.
    Tun(Uplink, UplinkConfig),
    /// The host's sockets, of the calling thread's network namespace. There is no device.
    Sockets {
        /// How they leave the host.
        options: sockets::Options,
        /// What the core is to know of it.
        config: Box<SocketUplinkConfig>,
    },
}

/// Starts the loop in a thread of its own.
pub fn start(start: Start) -> Result<LoopHandle, SwitchError> {
    let failed = |what| move |why| SwitchError::Failed { what, why };
    let poll = Poll::new().map_err(failed("cannot make an epoll instance"))?;
    let waker = Arc::new(Waker::new(poll.registry(), WAKE).map_err(failed("cannot make an eventfd"))?);
    let (jobs, receiver) = bounded(MAX_JOBS);
    let clock = Clock::new();
    let mut reactor = Reactor {
        poll,
        jobs: receiver,
        datapath: Datapath::new(start.config, start.seed, clock.now()),
        wire: Wire {
            devices: Devices::default(),
            outbox: Outbox::new(),
            sockets: None,
            capture: None,
            patience: Patience::default(),
        },
        ready: VecDeque::new(),
        held: BTreeSet::new(),
        unfinished: VecDeque::new(),
        clock,
        notifier: start.notifier,
        buf: vec![0; BUFFER_LEN],
        stop: false,
    };
    match start.uplink {
        None => {}
        Some(StartUplink::Tun(uplink, config)) => reactor.add_uplink(uplink, config)?,
        Some(StartUplink::Sockets { options, config }) => {
            let sockets = HostSockets::new(reactor.poll.registry(), options)
                .map_err(failed("cannot prepare for sockets of the host"))?;
            reactor.wire.sockets = Some(sockets);
            if !sockets::may_ping() {
                log::info!("{}", ping::FORBIDDEN);
            }
            let now = reactor.clock.now();
            reactor.datapath.apply(Command::SetSocketUplink(config), now, &mut reactor.wire)?;
        }
    }
    let thread = std::thread::Builder::new()
        .name("datapath".to_owned())
        .spawn(move || reactor.run())
        .map_err(failed("cannot start the datapath's thread"))?;
    Ok(LoopHandle { jobs, waker, thread })
}

impl LoopHandle {
    fn ask<T>(&self, job: impl FnOnce(Sender<T>) -> Job) -> Result<T, SwitchError> {
        let (sender, receiver) = bounded(1);
        self.jobs
            .send_timeout(job(sender), ANSWER_WITHIN)
            .map_err(|error| if error.is_disconnected() { SwitchError::Ended } else { SwitchError::Silent })?;
        self.waker.wake().map_err(|why| SwitchError::Failed { what: "cannot wake the event loop", why })?;
        receiver.recv_timeout(ANSWER_WITHIN).map_err(|error| match error {
            RecvTimeoutError::Timeout => SwitchError::Silent,
            RecvTimeoutError::Disconnected => SwitchError::Ended,
        })
    }
}

impl Switch for LoopHandle {
    type Port = TapPort;

    fn apply(&self, command: Command) -> Result<Applied, SwitchError> {
        self.ask(|answer| Job::Apply(command, answer))?
    }

    fn query(&self, query: Query) -> Result<Answer, SwitchError> {
        self.ask(|answer| Job::Query(query, answer))
    }

    fn add_port(&self, port: PortId, device: TapPort) -> Result<(), NotAdded<TapPort>> {
        match self.ask(|answer| Job::AddPort(port, device, answer)) {
            Ok(added) => added,
            Err(why) => Err(NotAdded { why, device: None }),
        }
    }

    fn remove_port(&self, port: PortId) -> Result<Option<TapPort>, SwitchError> {
        self.ask(|answer| Job::RemovePort(port, answer))
    }

    fn capture(&self, file: Option<File>) -> Result<(), SwitchError> {
        if let Some(before) = self.ask(|answer| Job::Capture(file, answer))?? {
            before.finish();
        }
        Ok(())
    }

    fn shutdown(self) -> Result<(), SwitchError> {
        let told = self.jobs.send_timeout(Job::Shutdown, ANSWER_WITHIN).is_ok();
        self.waker.wake().map_err(|why| SwitchError::Failed { what: "cannot wake the event loop", why })?;
        if told && self.thread.join().is_ok() { Ok(()) } else { Err(SwitchError::Ended) }
    }
}

struct Reactor {
    poll: Poll,
    jobs: Receiver<Job>,
    datapath: Datapath,
    wire: Wire,
    /// Ports with frames to read, in the order they are served.
    ready: VecDeque<PortId>,
    /// Ports that have used up their allowance, and when they are read again.
    held: BTreeSet<(Instant, PortId)>,
    /// Commands whose flows are still being removed: a step each turn.
    unfinished: VecDeque<(Unfinished, Sender<Result<Applied, SwitchError>>)>,
    clock: Clock,
    notifier: Notifier,
    /// One frame, with headroom.
    buf: Vec<u8>,
    stop: bool,
}

impl Reactor {
    fn run(mut self) {
        let mut events = Events::with_capacity(256);
        while !self.stop {
            if let Err(error) = self.turn(&mut events) {
                self.notifier.tell(Notice::Stopped { why: error.to_string() });
                return;
            }
        }
        for entry in self.wire.devices.entries.into_iter().flatten() {
            let closed = match entry.role {
                Role::Tap(tap) => tap.detach(),
                Role::Uplink(uplink) => uplink.close(),
            };
            if let Err(error) = closed {
                log::warn!("cannot give up the device of {}: {error}", entry.id);
            }
        }
        if let Some(capture) = self.wire.capture {
            capture.finish();
        }
    }

    fn turn(&mut self, events: &mut Events) -> io::Result<()> {
        let now = self.clock.now();
        let due = self.datapath.next_timeout();
        let has_work = !self.ready.is_empty() || !self.jobs.is_empty() || !self.unfinished.is_empty();
        let timeout = if has_work || self.sockets_waiting() > 0 {
            Some(std::time::Duration::ZERO)
        } else {
            let resumes = self.held.first().map(|(at, _)| *at);
            due.into_iter().chain(resumes).min().map(|at| at.since(now))
        };
        if timeout == Some(std::time::Duration::ZERO) || !self.look(events, now)? {
            poll(&mut self.poll, events, timeout)?;
        }
        self.wire.patience.begin();
        for event in events.iter() {
            let of_socket = event.token() != WAKE && self.wire.sockets.as_mut().is_some_and(|s| s.event(event));
            if event.token() != WAKE && !of_socket {
                self.latch(PortId(event.token().0 as u32)); // made from a port id
            }
        }
        let now = self.clock.now();
        if due.is_some_and(|at| at <= now) {
            self.datapath.handle_timeout(now, &mut self.wire);
            self.flush();
        }
        for _ in 0..JOBS_PER_TURN {
            match self.jobs.try_recv() {
                Ok(job) => {
                    self.do_job(job);
                    self.flush();
                }
                Err(_) => break,
            }
        }
        if let Some((unfinished, answer)) = self.unfinished.pop_front() {
            let progress = self.datapath.proceed(unfinished, now, &mut self.wire);
            self.go_on(progress, answer);
            self.flush();
        }
        self.resume(now);
        let ports = self.ready.len();
        for _ in 0..ports {
            let Some(port) = self.ready.pop_front() else { break };
            self.serve(port);
        }
        self.serve_sockets(QUANTUM * ports.max(1) as i64); // at most 65,536
        Ok(())
    }

    /// Waits a moment for events without sleeping, if that is worth it; `true`: there are some.
    fn look(&mut self, events: &mut Events, now: Instant) -> io::Result<bool> {
        if !self.wire.patience.tries() {
            return Ok(false);
        }
        let until = now.micros() + LOOK;
        loop {
            poll(&mut self.poll, events, Some(std::time::Duration::ZERO))?;
            let found = !events.is_empty();
            if found || self.clock.now().micros() >= until {
                self.wire.patience.looked(found);
                return Ok(found);
            }
        }
    }

    fn sockets_waiting(&self) -> usize {
        self.wire.sockets.as_ref().map_or(0, HostSockets::waiting)
    }

    /// Lets the core send what it held back to send it together, and writes what waits; what that costs whoever caused it.
    fn flush(&mut self) -> i64 {
        if self.wire.sockets.is_some() {
            self.wire.outbox.takes = Takes::All;
            self.datapath.flush(self.clock.now(), &mut self.wire);
            self.write_outbox();
        } // else nothing is held back but for connections
        i64::from(self.datapath.take_work()) * MIN_CHARGE
    }

    fn write_outbox(&mut self) {
        self.wire.outbox.write(&mut self.wire.devices);
        self.wire.outbox.takes = Takes::None;
        for sent in self.wire.outbox.written.drain(..) {
            self.datapath.settle(sent);
        }
    }

    /// The sockets' share of a turn, bytes: each that is ready now once, as far as it goes.
    fn serve_sockets(&mut self, mut share: i64) {
        let mut served = 0;
        let mut now = self.clock.now();
        for _ in 0..self.sockets_waiting() {
            let Some((id, ready)) = self.wire.sockets.as_mut().and_then(HostSockets::next_ready) else { break };
            // The first frame is written at once: nothing is known to come after it.
            self.wire.outbox.takes = if served == 0 { Takes::Later } else { Takes::All };
            self.wire.patience.served(0);
            let (mut ready, mut deficit) = (ready, SOCKET_QUANTUM);
            loop {
                let more = self.datapath.socket_ready(id, ready, now, &mut self.wire);
                let before = now;
                now = self.clock.now();
                let charge = i64::from(self.datapath.take_work().max(1)) * MIN_CHARGE;
                let charge = charge.max(time_charge(before, now));
                deficit -= charge;
                share -= charge;
                if !more {
                    break;
                }
                if deficit <= 0 {
                    if let Some(sockets) = &mut self.wire.sockets {
                        sockets.latch(id, Ready::default());
                    }
                    break;
                }
                ready = Ready::default();
            }
            served += 1;
            if served % BATCH == 0 {
                share -= self.flush();
            }
            if share <= 0 {
                break;
            }
        }
        if served % BATCH != 0 {
            self.flush();
        }
    }

    /// Remembers that a port has something to read; errors are found by reading.
    fn latch(&mut self, id: PortId) {
        if let Some(entry) = self.wire.devices.get_mut(id)
            && !entry.ready
        {
            entry.ready = true;
            self.ready.push_back(id);
        }
    }

    /// One port's share of a turn.
    fn serve(&mut self, id: PortId) {
        let Some(entry) = self.wire.devices.get_mut(id) else { return };
        entry.deficit = (entry.deficit + QUANTUM).min(QUANTUM);
        let mut deficit = entry.deficit;
        let mut now = self.clock.now();
        let mut end = End::More;
        while deficit > 0 && matches!(end, End::More) {
            let batch = self.batch(id, now);
            self.write_outbox();
            if !batch.tally.is_clean() {
                deficit -= self.flush(); // what is owed for them is part of what they cost
            }
            let before = now;
            // Most ports that had something have no more: their time is not looked at unless it matters.
            if matches!(batch.end, End::More) || !batch.tally.is_clean() {
                now = self.clock.now();
            }
            deficit -= batch.charge.max(time_charge(before, now));
            end = batch.end;
            if !batch.tally.is_clean()
                && let Some(entry) = self.wire.devices.get_mut(id)
                && matches!(entry.role, Role::Tap(_))
            {
                entry.allowance.settle(batch.tally, now.since(before), now);
                if let Some(at) = entry.allowance.resumes(now) {
                    entry.deficit = deficit.clamp(-16 * QUANTUM, 0);
                    self.wire.outbox.takes = Takes::None;
                    return if matches!(end, End::Gone) { self.lose(id) } else { self.hold(id, at) };
                }
            }
            self.wire.outbox.takes = Takes::All; // more are likely now
        }
        deficit -= self.flush();
        self.wire.outbox.takes = Takes::None;
        match end {
            End::More => {
                if let Some(entry) = self.wire.devices.get_mut(id) {
                    entry.deficit = deficit.max(-16 * QUANTUM);
                    self.ready.push_back(id);
                }
            }
            End::Empty => {
                if let Some(entry) = self.wire.devices.get_mut(id) {
                    entry.ready = false;
                    entry.deficit = 0;
                }
            }
            End::Gone => self.lose(id),
        }
    }

    /// Reads no more of a port until its allowance has grown: it is not even watched, as each frame that comes would wake the
    /// loop.
    fn hold(&mut self, id: PortId, until: Instant) {
        let Some(entry) = self.wire.devices.get_mut(id) else { return };
        let fd = entry.role.device().as_fd().as_raw_fd();
        if !std::mem::replace(&mut entry.was_held, true) {
            log::warn!(
                "{id}: so much of what it sends comes to nothing that it is read more slowly; its own device drops what is too \
                 much (tx_dropped); told once"
            );
        }
        if let Err(error) = self.poll.registry().deregister(&mut SourceFd(&fd)) {
            log::debug!("cannot leave off watching {id}: {error}");
        }
        self.held.insert((until, id));
    }

    /// Ports whose time has come are read again.
    fn resume(&mut self, now: Instant) {
        while let Some(&(at, id)) = self.held.first()
            && at <= now
        {
            self.held.pop_first();
            let Some(entry) = self.wire.devices.get_mut(id) else { continue };
            let fd = entry.role.device().as_fd().as_raw_fd();
            if let Err(error) = self.register(id, fd) {
                log::warn!("{id} cannot be watched again: {error}");
                self.lose(id);
                continue;
            }
            self.ready.push_back(id); // what came meanwhile
        }
    }

    /// Reads up to [`BATCH`] frames of a port; one, while what its frames cost is looked at closely.
    fn batch(&mut self, id: PortId, now: Instant) -> Batch {
        let mut batch = Batch { charge: 0, tally: Tally::default(), end: End::More };
        for _ in 0..BATCH {
            let Some(entry) = self.wire.devices.get_mut(id) else {
                batch.end = End::Empty;
                break;
            };
            let closely = !entry.allowance.is_whole(now);
            match entry.read(&mut self.buf) {
                Ok(Some(len)) => {
                    self.wire.patience.served(len);
                    self.datapath.input(id, &mut self.buf, len, now, &mut self.wire);
                    let work = self.datapath.take_work();
                    let worth = self.datapath.worth();
                    batch.charge += i64::from(work.max(1)) * (len as i64).max(MIN_CHARGE);
                    batch.tally.add(worth);
                    if work > BATCH as u32 || len > SHORT || closely || worth == Worth::Attempt {
                        break;
                    }
                    self.wire.outbox.takes = Takes::All;
                }
                // A frame shorter than its virtio header cannot be; nothing to charge but the call.
                Ok(None) => batch.charge += MIN_CHARGE,
                Err(ReadError::Empty) => {
                    batch.end = End::Empty;
                    break;
                }
                // The kernel could not put one frame's offload into a virtio header, and has dropped it
                // (tun_put_user, `virtio_net_hdr_from_skb`): the next is another matter.
                Err(ReadError::Other(Errno::INVAL)) => {
                    self.datapath.count_unreadable(id);
                    batch.charge += MIN_CHARGE;
                }
                Err(ReadError::Gone | ReadError::Other(_)) => {
                    batch.end = End::Gone;
                    break;
                }
            }
        }
        batch
    }

    /// The device is out of order: no more events of it, and whoever attached it is told.
    fn lose(&mut self, id: PortId) {
        let Some(entry) = self.wire.devices.get_mut(id) else { return };
        entry.ready = true; // never latched again
        let fd = entry.role.device().as_fd().as_raw_fd();
        let is_uplink = matches!(entry.role, Role::Uplink(_));
        if let Err(error) = self.poll.registry().deregister(&mut SourceFd(&fd)) {
            log::debug!("cannot deregister {id}: {error}");
        }
        if is_uplink {
            // It stays in the listings, as down: nobody attached it, so nobody detaches it.
            log::error!("the uplink's device is gone: nothing reaches the world any more; restart pontoon");
            let down = Command::Link { port: id, up: false };
            if let Err(error) = self.datapath.apply(down, self.clock.now(), &mut self.wire) {
                log::warn!("{id}: cannot be marked as down: {error}");
            }
            return;
        }
        log::info!("{id}: the device is gone");
        self.notifier.tell(Notice::PortGone(id));
    }

    fn do_job(&mut self, job: Job) {
        let now = self.clock.now();
        // An asker that has given up waiting is none of our business: the sends below may fail.
        match job {
            Job::Apply(command, answer) => match self.datapath.start(command, now, &mut self.wire) {
                Ok(progress) => self.go_on(progress, answer),
                Err(why) => {
                    let _ = answer.send(Err(why.into()));
                }
            },
            Job::Query(query, answer) => {
                let _ = answer.send(self.datapath.query(&query, now));
            }
            Job::AddPort(port, tap, answer) => {
                let added = self.add(port, tap);
                let _ = answer.send(added);
            }
            Job::RemovePort(port, answer) => {
                let _ = answer.send(self.remove(port));
            }
            Job::Capture(file, answer) => {
                let started = match file {
                    None => Ok(None),
                    Some(file) => Capture::start(file, self.notifier.clone())
                        .map(Some)
                        .map_err(|why| SwitchError::Failed { what: "cannot start capturing", why }),
                };
                let _ = answer.send(started.map(|capture| std::mem::replace(&mut self.wire.capture, capture)));
            }
            Job::Shutdown => self.stop = true,
        }
    }

    /// Answers a command that is done; one that is not goes on in a later turn.
    fn go_on(&mut self, progress: Progress, answer: Sender<Result<Applied, SwitchError>>) {
        match progress {
            Progress::Done(applied) => {
                let _ = answer.send(Ok(applied)); // an asker that has given up
            }
            Progress::More(unfinished) => self.unfinished.push_back((unfinished, answer)),
        }
    }

    #[expect(clippy::result_large_err, reason = "once per attach, and the device must come back")]
    fn add(&mut self, port: PortId, tap: TapPort) -> Result<(), NotAdded<TapPort>> {
        match self.register(port, tap.as_fd().as_raw_fd()) {
            Ok(()) => {
                let vnet = tap.device().caps().vnet;
                self.wire.devices.insert(Entry::new(port, Role::Tap(tap), vnet));
                self.latch(port); // what came before we looked raises no edge
                if let Some(sockets) = &mut self.wire.sockets {
                    sockets.others_changed(PORT_DESCRIPTORS);
                }
                Ok(())
            }
            Err(why) => {
                let why = SwitchError::Failed { what: "cannot watch the device", why };
                Err(NotAdded { why, device: Some(tap) })
            }
        }
    }

    /// Takes the uplink, or closes it: a device of ours must not outlive a start that failed.
    fn add_uplink(&mut self, uplink: Uplink, config: UplinkConfig) -> Result<(), SwitchError> {
        let caps = uplink.device().caps();
        match self.prepare_uplink(config, caps, uplink.as_fd().as_raw_fd()) {
            Ok(id) => {
                self.wire.devices.insert(Entry::new(id, Role::Uplink(uplink), caps.vnet));
                self.latch(id); // what came before we looked raises no edge
                Ok(())
            }
            Err(why) => {
                if let Err(error) = uplink.close() {
                    log::warn!("cannot give up the uplink: {error}");
                }
                Err(why)
            }
        }
    }

    fn prepare_uplink(
        &mut self,
        config: UplinkConfig,
        caps: Caps,
        fd: std::os::fd::RawFd,
    ) -> Result<PortId, SwitchError> {
        let now = self.clock.now();
        let Applied::Uplink(port) = self.datapath.apply(Command::SetUplink(config), now, &mut self.wire)? else {
            unreachable!("the first uplink is given a port");
        };
        self.datapath.apply(Command::Open { port, caps }, now, &mut self.wire)?;
        self.register(port, fd).map_err(|why| SwitchError::Failed { what: "cannot watch the uplink", why })?;
        Ok(port)
    }

    fn register(&self, port: PortId, fd: std::os::fd::RawFd) -> io::Result<()> {
        self.poll.registry().register(&mut SourceFd(&fd), Token(port.0 as usize), Interest::READABLE)
    }

    fn remove(&mut self, port: PortId) -> Option<TapPort> {
        if matches!(self.wire.devices.get_mut(port)?.role, Role::Uplink(_)) {
            return None;
        }
        let entry = self.wire.devices.remove(port)?;
        let fd = entry.role.device().as_fd().as_raw_fd();
        if let Err(error) = self.poll.registry().deregister(&mut SourceFd(&fd)) {
            log::debug!("{port} was not watched any more: {error}");
        }
        if let Some(sockets) = &mut self.wire.sockets {
            sockets.others_changed(-PORT_DESCRIPTORS);
        }
        match entry.role {
            Role::Tap(tap) => Some(tap),
            Role::Uplink(_) => None,
        }
    }
}

fn poll(poll: &mut Poll, events: &mut Events, timeout: Option<std::time::Duration>) -> io::Result<()> {
    match poll.poll(events, timeout) {
        Err(error) if error.kind() == io::ErrorKind::Interrupted => Ok(()),
        done => done,
    }
}

/// What the time between two looks at the clock costs, bytes.
fn time_charge(before: Instant, now: Instant) -> i64 {
    i64::try_from(now.micros() - before.micros()).unwrap_or(i64::MAX / 4096) * CHARGE_PER_MICRO
}
