//! The control thread: clients of the API socket, lives of attachments, notices of the event loop, the end.
//!
//! # Theory of operation
//! One thread and one mio `Poll`; nothing in here waits for a client. mio is edge-triggered: a client is *pumped* until
//! it blocks, or until its share of the turn is used up and it goes to the end of the ready list. A pump is one pass of
//!
//! ```text
//! write what is pending -> refill it from the listing under way -> answer one request -> read
//! ```
//!
//! in that order, so a client that does not read is not read either: it costs its slot, [`HIGH_WATER`] of output and at
//! most one request. There is no time limit for it: when all slots are taken, the one that was silent for longest goes.
//!
//! What ends an attachment is watched here too: pidfds are in the `Poll`; paths are looked at after an event of inotify or
//! of the mounts, and those of which neither tells every [`lifetime::CHECK_EVERY`] by a timer. With nothing to do the
//! thread sleeps.
//!
//! # Limits
//! [`MAX_CLIENTS`] clients; a request of [`MAX_REQUEST`]; [`MAX_FDS`] file descriptors that no request has used yet.
//! A call waits for the helper at most 2.5 s and for the loop at most 5 s, and other clients with it; frames do not.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::io::{self, Write};
use std::os::fd::{AsFd, AsRawFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;
use std::time::Duration;

use crossbeam_channel::Receiver;
use mio::unix::SourceFd;
use mio::{Events, Interest, Poll, Registry, Token, Waker};
use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use serde_json::Value;
use signal_hook::consts::{SIGINT, SIGTERM};

use super::calls::{Calls, ClientId, Listing, Reply};
use super::plumber::Plumber;
use super::protocol::{ApiError, Class, MAX_REQUEST, Request};
use super::socket::{ControlSocket, SocketError};
use crate::core::port::PortId;
use crate::io::lifetime::{self, Watcher};
use crate::io::switch::{Notice, Notifier, Switch};
use crate::io::sys::msg;

/// Clients at once. A person has a handful, a supervisor one or two.
pub const MAX_CLIENTS: usize = 64;

/// Output that waits for a client; a row more may be added when it is not reached.
pub const HIGH_WATER: usize = 64 * 1024;

/// File descriptors of a client that no request has used yet.
pub const MAX_FDS: usize = msg::MAX_FDS;

/// Passes of a pump before the next client has its turn.
const PASSES: usize = 64;

const READ: usize = 64 * 1024;

const LISTENER: Token = Token(0);
const WAKER: Token = Token(1);
const WATCHER: Token = Token(2);
const TIMER: Token = Token(3);
const SIGNALS: Token = Token(4);
const EXIT: Token = Token(5);
const MOUNTS: Token = Token(6);
const FIRST_CLIENT: ClientId = 16;
/// The life of port n is at `FIRST_LIFE + n`; no process sees that many clients.
const FIRST_LIFE: usize = 1 << 48;

/// Why the server cannot run.
#[derive(Debug, thiserror::Error)]
pub enum ServerError {
    #[error(transparent)]
    Socket(#[from] SocketError),
    #[error("control thread: cannot {step}: {why}")]
    Poll { step: &'static str, why: io::Error },
    #[error("{0}")]
    Loop(ApiError),
    #[error("the event loop has stopped: {0}")]
    Stopped(String),
}

fn step(step: &'static str) -> impl FnOnce(io::Error) -> ServerError {
    move |why| ServerError::Poll { step, why }
}

/// The server, not yet serving.
#[derive(Debug)]
pub struct Server {
    poll: Poll,
    /// `None`: nobody but whoever runs the server makes calls.
    socket: Option<ControlSocket>,
    watcher: Watcher,
    timer: OwnedFd,
    notifier: Notifier,
    notices: Receiver<Notice>,
    signals: Option<UnixStream>,
    exit: Option<OwnedFd>,
}

impl Server {
    /// Listens on `path`. Nobody is answered before [`Server::run`].
    pub fn bind(path: &Path) -> Result<Server, ServerError> {
        Self::on(Some(ControlSocket::bind(path)?))
    }

    /// Listens nowhere: the only calls are those of [`Server::run_after`].
    pub fn without_socket() -> Result<Server, ServerError> {
        Self::on(None)
    }

    fn on(socket: Option<ControlSocket>) -> Result<Server, ServerError> {
        let poll = Poll::new().map_err(step("make an epoll instance"))?;
        let waker = Waker::new(poll.registry(), WAKER).map_err(step("make a waker"))?;
        let (notifier, notices) = Notifier::new(Arc::new(waker));
        let watcher = Watcher::new().map_err(step("make an inotify instance"))?;
        let timer = timerfd_create(TimerfdClockId::Monotonic, TimerfdFlags::CLOEXEC | TimerfdFlags::NONBLOCK)
            .map_err(|errno| step("make a timer")(errno.into()))?;
        let registry = poll.registry();
        let listener = socket.as_ref().map(|socket| (socket.listener().as_fd(), LISTENER));
        for (fd, token) in [(watcher.as_fd(), WATCHER), (timer.as_fd(), TIMER)].into_iter().chain(listener) {
            watch(registry, fd, token, Interest::READABLE).map_err(step("watch its descriptors"))?;
        }
        if let Some(mounts) = watcher.mounts() {
            watch(registry, mounts, MOUNTS, Interest::PRIORITY).map_err(step("watch the mounts"))?;
        }
        Ok(Server { poll, socket, watcher, timer, notifier, notices, signals: None, exit: None })
    }

    /// By which the event loop tells what happens.
    pub fn notifier(&self) -> Notifier {
        self.notifier.clone()
    }

    /// That looks after the paths of attachments.
    pub fn watcher(&self) -> Watcher {
        self.watcher.clone()
    }

    /// Ends cleanly at the first SIGTERM or SIGINT, and at once at the second.
    pub fn end_on_signals(&mut self) -> Result<(), ServerError> {
        let make = || {
            let (read, write) = UnixStream::pair()?;
            read.set_nonblocking(true)?;
            let once = Arc::new(AtomicBool::new(false));
            for signal in [SIGTERM, SIGINT] {
                signal_hook::flag::register_conditional_shutdown(signal, 1, once.clone())?;
                signal_hook::flag::register(signal, once.clone())?;
                signal_hook::low_level::pipe::register(signal, write.try_clone()?)?;
            }
            watch(self.poll.registry(), read.as_fd(), SIGNALS, Interest::READABLE)?;
            Ok(read)
        };
        self.signals = Some(make().map_err(step("wait for signals"))?);
        Ok(())
    }

    /// Ends cleanly when the other end of `fd` is closed.
    pub fn end_with(&mut self, fd: OwnedFd) -> Result<(), ServerError> {
        watch(self.poll.registry(), fd.as_fd(), EXIT, Interest::READABLE)
            .map_err(step("watch --exit-fd (give one end of a pipe or a socket)"))?;
        self.exit = Some(fd);
        Ok(())
    }

    /// Serves until somebody asks for the end; then detaches everything and ends the switch.
    pub fn run<S, P>(self, switch: S, plumber: P) -> Result<(), ServerError>
    where
        S: Switch,
        P: Plumber<Port = S::Port>,
    {
        self.run_after(switch, plumber, |_| Ok(()))
    }

    /// As [`Server::run`], with calls of our own that are made before anybody else's. If they fail, nobody is served.
    pub fn run_after<S, P>(
        self,
        switch: S,
        plumber: P,
        first: impl FnOnce(&mut Calls<S, P>) -> Result<(), ApiError>,
    ) -> Result<(), ServerError>
    where
        S: Switch,
        P: Plumber<Port = S::Port>,
    {
        let mut running = Running {
            server: self,
            calls: Calls::new(switch, plumber),
            clients: BTreeMap::new(),
            next_client: FIRST_CLIENT,
            ready: VecDeque::new(),
            uses: 0,
            checking: false,
            waiting: false,
            crowded: false,
        };
        let end = first(&mut running.calls)
            .map_err(ServerError::Loop)
            .and_then(|()| running.watch_lives())
            .and_then(|()| running.serve());
        let Running { server, calls, clients, .. } = running;
        // Nobody new comes in while the ports go; those who are here see the end when it has come.
        drop(server);
        let down = calls.shutdown().map_err(ServerError::Loop);
        drop(clients);
        end.and(down)
    }
}

fn watch(registry: &Registry, fd: impl AsFd, token: Token, interest: Interest) -> io::Result<()> {
    registry.register(&mut SourceFd(&fd.as_fd().as_raw_fd()), token, interest)
}

struct Running<S: Switch, P: Plumber<Port = S::Port>> {
    server: Server,
    calls: Calls<S, P>,
    clients: BTreeMap<ClientId, Client>,
    next_client: ClientId,
    /// Clients with more to do than their share of the last turn.
    ready: VecDeque<ClientId>,
    /// Counts what clients do, as a clock for who was silent for longest.
    uses: u64,
    /// Is the timer armed?
    checking: bool,
    /// Does a client wait that could not be accepted? No other event will come for it.
    waiting: bool,
    /// Is it told that the limit of clients is reached? Told again when half of them have gone in between.
    crowded: bool,
}

impl<S: Switch, P: Plumber<Port = S::Port>> Running<S, P> {
    fn serve(&mut self) -> Result<(), ServerError> {
        let mut events = Events::with_capacity(256);
        loop {
            let timeout = (!self.ready.is_empty()).then_some(Duration::ZERO);
            match self.server.poll.poll(&mut events, timeout) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                polled => polled.map_err(step("wait for events"))?,
            }
            let mut pump: BTreeSet<ClientId> = self.ready.drain(..).collect();
            let mut check = false;
            let waited = self.waiting;
            for event in &events {
                match event.token() {
                    LISTENER => self.accept(),
                    WAKER => self.take_notices()?,
                    WATCHER => check |= self.server.watcher.drain(),
                    MOUNTS => check = true,
                    TIMER => {
                        // How often it ran out does not matter.
                        let _ = rustix::io::read(&self.server.timer, &mut [0; 8]);
                        check = true;
                    }
                    SIGNALS => {
                        log::info!("a signal asks for the end");
                        return Ok(());
                    }
                    EXIT if event.is_read_closed() || event.is_error() => {
                        log::info!("--exit-fd was closed");
                        return Ok(());
                    }
                    EXIT => {
                        // What is written to it means nothing, but has to go before the end can be seen.
                        if let Some(exit) = &self.server.exit {
                            let _ = rustix::io::read(exit, &mut [0; 4096]);
                        }
                    }
                    Token(life) if life >= FIRST_LIFE => check = true,
                    Token(client) => {
                        pump.insert(client);
                    }
                }
            }
            if check {
                self.calls.check_lives();
            }
            for id in pump {
                self.pump(id);
                if self.calls.is_stopping() {
                    log::info!("a client asks for the end");
                    return Ok(());
                }
            }
            for id in self.calls.take_bereft() {
                if let Some(client) = self.clients.get_mut(&id) {
                    client.closing = true;
                    self.pump(id);
                }
            }
            self.watch_lives()?;
            if waited {
                self.accept();
            }
        }
    }

    fn accept(&mut self) {
        self.waiting = false;
        loop {
            let Some(socket) = &self.server.socket else {
                return;
            };
            match socket.accept() {
                Ok(stream) => self.admit(stream),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => return,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                    log::warn!("control socket: {error}");
                }
                Err(error) => {
                    log::warn!("control socket: cannot accept a client: {error}; tried again at the next event");
                    self.waiting = true;
                    return;
                }
            }
        }
    }

    fn admit(&mut self, mut stream: UnixStream) {
        self.crowded &= self.clients.len() >= MAX_CLIENTS / 2;
        if self.clients.len() >= MAX_CLIENTS {
            let quietest = self
                .clients
                .iter()
                .filter(|(id, _)| !self.calls.lives_by(**id))
                .min_by_key(|(_, client)| client.last_use)
                .map(|(id, _)| *id);
            match quietest {
                Some(id) => {
                    if !std::mem::replace(&mut self.crowded, true) {
                        log::info!("control socket: {MAX_CLIENTS} clients; the one silent for longest is closed");
                    }
                    self.close(id);
                }
                None => {
                    let full = ApiError::new(
                        Class::Full,
                        format!("the limit of {MAX_CLIENTS} clients is reached, and a port lives by each; detach one"),
                    );
                    // A new socket has room for a line; if not, the end of it says enough.
                    let _ = stream.write_all(&error_line(&full, None));
                    return;
                }
            }
        }
        let id = self.next_client;
        self.next_client += 1;
        let interest = Interest::READABLE | Interest::WRITABLE;
        if let Err(error) = watch(self.server.poll.registry(), stream.as_fd(), Token(id), interest) {
            log::warn!("control socket: cannot watch a client: {error}");
            return;
        }
        self.uses += 1;
        self.clients.insert(id, Client::new(stream, self.uses));
    }

    fn take_notices(&mut self) -> Result<(), ServerError> {
        while let Ok(notice) = self.server.notices.try_recv() {
            match notice {
                Notice::PortGone(port) => self.calls.port_gone(port),
                Notice::CaptureEnded { why } => log::warn!("capture ended: {why}"),
                Notice::Stopped { why } => return Err(ServerError::Stopped(why)),
            }
        }
        Ok(())
    }

    fn pump(&mut self, id: ClientId) {
        let Some(client) = self.clients.get_mut(&id) else {
            return;
        };
        let (next, used) = client.pump(id, &mut self.calls);
        if used {
            self.uses += 1;
            client.last_use = self.uses;
        }
        match next {
            Next::Wait => {}
            Next::Again => self.ready.push_back(id),
            Next::Close => self.close(id),
        }
    }

    fn close(&mut self, id: ClientId) {
        self.clients.remove(&id);
        self.calls.client_gone(id);
    }

    /// Watches the lives of new ports, and lets the timer run exactly while a life needs it.
    fn watch_lives(&mut self) -> Result<(), ServerError> {
        let mut over = false;
        for port in self.calls.take_new() {
            let PortId(number) = port;
            let Some(fd) = self.calls.life_fd(port) else {
                continue;
            };
            let token = Token(FIRST_LIFE + number as usize);
            if let Err(error) = watch(self.server.poll.registry(), fd, token, Interest::READABLE) {
                log::warn!("{port}: its process cannot be watched: {error}");
                over = true;
            }
        }
        if over {
            self.calls.check_lives();
        }
        let needed = self.calls.needs_checks();
        if needed != self.checking {
            let every = if needed { lifetime::CHECK_EVERY } else { Duration::ZERO };
            let every = Timespec { tv_sec: every.as_secs().cast_signed(), tv_nsec: every.subsec_nanos().into() };
            let spec = Itimerspec { it_interval: every, it_value: every };
            timerfd_settime(&self.server.timer, TimerfdTimerFlags::empty(), &spec)
                .map_err(|errno| step("set its timer")(errno.into()))?;
            self.checking = needed;
        }
        Ok(())
    }
}

/// What a client needs next.
enum Next {
    /// An event.
    Wait,
    /// Another turn.
    Again,
    /// The end.
    Close,
}

/// What a client has not taken yet.
#[derive(Default)]
struct Output {
    bytes: Vec<u8>,
    /// How many of them are written.
    written: usize,
}

/// A connection.
struct Client {
    stream: UnixStream,
    /// Read and not yet answered: at most one unfinished request when it is read into.
    input: Vec<u8>,
    /// How much of `input` is known to hold no newline.
    scanned: usize,
    output: Output,
    /// A listing under way, and the id of its request.
    listing: Option<(Listing, Option<Value>)>,
    /// Is a row of it written?
    listed: bool,
    fds: VecDeque<OwnedFd>,
    last_use: u64,
    /// It will send no more.
    ended: bool,
    /// It is to be closed when all is written.
    closing: bool,
}

impl Client {
    fn new(stream: UnixStream, last_use: u64) -> Client {
        Client {
            stream,
            input: Vec::new(),
            scanned: 0,
            output: Output::default(),
            listing: None,
            listed: false,
            fds: VecDeque::new(),
            last_use,
            ended: false,
            closing: false,
        }
    }

    /// Goes as far as it can; also whether anything moved.
    fn pump<S, P>(&mut self, id: ClientId, calls: &mut Calls<S, P>) -> (Next, bool)
    where
        S: Switch,
        P: Plumber<Port = S::Port>,
    {
        let mut used = false;
        for _ in 0..PASSES {
            match self.output.flush(&self.stream) {
                Ok(Flushed::Nothing) => {}
                Ok(Flushed::All) => used = true,
                Ok(Flushed::Blocked { some }) => return (Next::Wait, used || some),
                Err(_) => return (Next::Close, used),
            }
            if self.listing.is_some() {
                self.refill(calls.switch());
                continue;
            }
            if self.closing {
                return (Next::Close, used);
            }
            if let Some(line) = self.take_line() {
                self.answer(&line, id, calls);
                if calls.is_stopping() {
                    // The last thing that is said; the socket's buffer takes it, or it is not said.
                    let _ = self.output.flush(&self.stream);
                    return (Next::Wait, true);
                }
                continue;
            }
            if self.input.len() > MAX_REQUEST {
                self.refuse_length();
                continue;
            }
            if self.ended && !self.input.is_empty() {
                self.refuse("the last line has no newline, so it may be a part of a request; end it with one".into());
                continue;
            }
            if self.ended {
                return (Next::Close, used);
            }
            match self.read() {
                Ok(true) => used = true,
                Ok(false) => return (Next::Wait, used),
                Err(error) => {
                    log::debug!("control socket: a client is closed: {error}");
                    return (Next::Close, used);
                }
            }
        }
        (Next::Again, used)
    }

    /// Reads what is there; `false`: nothing now.
    fn read(&mut self) -> io::Result<bool> {
        let mut buf = [0; READ];
        let received = match msg::recv(&self.stream, &mut buf) {
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Ok(false),
            received => received?,
        };
        if self.fds.len() + received.fds.len() > MAX_FDS {
            return Err(io::Error::other(format!("more than {MAX_FDS} file descriptors that no request has used")));
        }
        self.fds.extend(received.fds);
        if received.len == 0 {
            self.ended = true;
        }
        self.input.extend_from_slice(&buf[..received.len]);
        Ok(true)
    }

    /// The next whole line, without its newline.
    fn take_line(&mut self) -> Option<Vec<u8>> {
        let Some(at) = self.input[self.scanned..].iter().position(|&byte| byte == b'\n') else {
            self.scanned = self.input.len();
            return None;
        };
        let rest = self.input.split_off(self.scanned + at + 1);
        let mut line = std::mem::replace(&mut self.input, rest);
        line.pop();
        self.scanned = 0;
        Some(line)
    }

    fn answer<S, P>(&mut self, line: &[u8], id: ClientId, calls: &mut Calls<S, P>)
    where
        S: Switch,
        P: Plumber<Port = S::Port>,
    {
        if line.len() > MAX_REQUEST {
            return self.refuse_length();
        }
        let Request { id: echo, call } = Request::parse(line);
        match call.and_then(|call| calls.execute(call, id, &mut self.fds)) {
            Ok(Reply::One(value)) => {
                self.output.push(b"{\"return\":");
                self.output.push(value.to_string().as_bytes());
                self.output.end(echo.as_ref());
            }
            Ok(Reply::Many(listing)) => {
                self.output.push(b"{\"return\":[");
                self.listing = Some((listing, echo));
                self.listed = false;
            }
            Err(error) => {
                // A descriptor that came for this request must not be taken for the next one's.
                self.fds.clear();
                self.output.push(&error_line(&error, echo.as_ref()));
            }
        }
    }

    fn refuse_length(&mut self) {
        self.refuse(format!("the request is longer than {MAX_REQUEST} bytes; send smaller ones"));
    }

    /// The last answer: what comes next cannot be told from what came.
    fn refuse(&mut self, why: String) {
        self.output.push(&error_line(&ApiError::new(Class::Syntax, why), None));
        self.input = Vec::new();
        self.scanned = 0;
        self.closing = true;
    }

    /// Adds rows of the listing until enough is pending.
    fn refill(&mut self, switch: &impl Switch) {
        let Some((listing, echo)) = &mut self.listing else {
            return;
        };
        while self.output.pending() < HIGH_WATER {
            match listing.next_row(switch) {
                Ok(Some(row)) => {
                    if std::mem::replace(&mut self.listed, true) {
                        self.output.push(b",");
                    }
                    self.output.push(row.as_bytes());
                }
                Ok(None) => {
                    self.output.push(b"]");
                    self.output.end(echo.as_ref());
                    self.listing = None;
                    return;
                }
                Err(error) => {
                    self.output.push(b"],\"error\":");
                    self.output.push(error_value(&error).to_string().as_bytes());
                    self.output.end(echo.as_ref());
                    self.listing = None;
                    return;
                }
            }
        }
    }
}

/// What became of the output.
enum Flushed {
    /// There was none.
    Nothing,
    /// It is all written.
    All,
    /// The client does not read; was `some` of it written?
    Blocked { some: bool },
}

impl Output {
    fn pending(&self) -> usize {
        self.bytes.len() - self.written
    }

    fn push(&mut self, bytes: &[u8]) {
        self.bytes.extend_from_slice(bytes);
    }

    /// Ends a response with its id, if it has one.
    fn end(&mut self, echo: Option<&Value>) {
        if let Some(id) = echo {
            self.push(b",\"id\":");
            self.push(id.to_string().as_bytes());
        }
        self.push(b"}\n");
    }

    fn flush(&mut self, stream: &UnixStream) -> io::Result<Flushed> {
        if self.pending() == 0 {
            return Ok(Flushed::Nothing);
        }
        let mut some = false;
        while self.pending() > 0 {
            // Not `write`: a client that is gone is an error, and no signal.
            match msg::send(stream, &self.bytes[self.written..], &[]) {
                Ok(len) => {
                    self.written += len;
                    some = true;
                }
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.bytes.drain(..self.written);
                    self.written = 0;
                    return Ok(Flushed::Blocked { some });
                }
                Err(error) => return Err(error),
            }
        }
        // A rare long answer must not hold its memory for as long as the client stays.
        if self.bytes.capacity() > 2 * HIGH_WATER {
            self.bytes = Vec::new();
        }
        self.bytes.clear();
        self.written = 0;
        Ok(Flushed::All)
    }
}

fn error_value(error: &ApiError) -> Value {
    serde_json::json!({ "class": error.class, "desc": error.desc })
}

fn error_line(error: &ApiError, echo: Option<&Value>) -> Vec<u8> {
    let mut line = serde_json::json!({ "error": error_value(error) });
    if let Some(id) = echo {
        line["id"] = id.clone();
    }
    let mut line = line.to_string().into_bytes();
    line.push(b'\n');
    line
}

#[cfg(test)]
mod tests;
