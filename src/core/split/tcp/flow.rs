//! One connection: the container's end of it as a TCP, the host's as a socket.
//!
//! # Theory of operation
//! RFC 9293's states are three facts here, because the two directions end on their own: how far the opening has come
//! ([`Phase`]), whether the container has ended (`rx.ended`), whether we have (`tx.fin`). [`Flow::state`] names them.
//!
//! ```text
//!  container's SYN                                    client accepted
//!        |                                                  |
//!   Connecting  --host connected: SYN-ACK-->  SynReceived   SynSent
//!                                                   |          |
//!                                                   '-> Open <-'  --both ended--> TIME_WAIT, or gone
//! ```
//!
//! Cut data never looks like a clean end: the first error is latched in `error`, the socket is read to its end, and when
//! the container has acknowledged all of that it is told by an RST, never a FIN. The other way round a host socket is
//! closed by an RST unless the container's FIN was passed on.
//!
//! # References
//! RFC 9293 3.10, RFC 5961 (challenges), RFC 7323 (timestamps, window scale), RFC 2018 (SACK).

use std::time::Duration;

use super::build::{self, Header, Options, Unreachable};
use super::listen::ListenerId;
use super::pool::{Memory, Usage};
use super::receive::Receive;
use super::segment::{Segment, after, before, distance, mss_for};
use super::send::{Fin, Send};
use super::{Config, Key, Stats};
use crate::core::counters::DropReason;
use crate::core::port::PortId;
use crate::core::socket::{Close, Endpoint, Failure, Mark, Ready, SocketId};
use crate::core::split::Lower;
use crate::core::time::Instant;
use crate::core::worth::Worth;
use crate::wire::ip::tcp;

/// Segments without data that are answered though they do not fit: at most one in this time, so that two ends that
/// disagree do not answer each other for ever.
const OUT_OF_WINDOW: Duration = Duration::from_millis(100);

/// A timestamp older than this says nothing (RFC 7323 5.5: 24 days).
const STAMP_LIFE: Duration = Duration::from_secs(24 * 86_400);

/// What a container has of the engine.
#[derive(Debug)]
pub(super) struct Account {
    pub port: PortId,
    pub usage: Usage,
    /// Its flows, in no order.
    pub flows: Vec<u32>,
    /// Its half-open flows by age, as slot and serial number; may name flows that are not half-open any more.
    pub half_open: std::collections::VecDeque<(u32, u64)>,
    /// How many of them are.
    pub half_open_count: usize,
}

/// What a flow needs around it.
pub(super) struct Context<'a> {
    pub config: &'a Config,
    pub now: Instant,
    pub lower: &'a mut dyn Lower,
    pub memory: &'a mut Memory,
    pub account: &'a mut Account,
    pub stats: &'a mut Stats,
    /// Host sockets that were closed.
    pub freed: &'a mut usize,
}

/// How far the opening has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Phase {
    /// The host connects; the container has had no answer yet.
    Connecting,
    /// We have sent a SYN, for a client.
    SynSent,
    /// We have sent a SYN-ACK.
    SynReceived,
    /// Both sides have agreed.
    Open,
}

/// What is to become of a flow after an event.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fate {
    Alive,
    /// Over, and nothing to remember.
    Gone,
    /// Over, and its last segments may still be about.
    TimeWait,
}

/// Timestamps, once agreed on.
#[derive(Clone, Copy, Debug)]
pub(super) struct Stamps {
    /// The container's last, to be echoed.
    recent: u32,
    recent_at: Instant,
}

/// A timestamp of ours: milliseconds, as Linux has them.
pub(super) fn stamp(now: Instant, offset: u32) -> u32 {
    ((now.micros() / 1000) as u32).wrapping_add(offset)
}

/// How far a flow has come, to see whether a segment brought it forward.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Progress {
    phase: Phase,
    /// What was acknowledged, sent, and may be sent; how many segments were sent again.
    sending: (u32, u32, u32, u64),
    /// What came in order, and before its turn.
    receiving: (u32, u64),
}

impl Progress {
    /// What the segment came to that `flow` has had since.
    #[inline]
    pub fn worth_of(self, flow: &Flow) -> Worth {
        if flow.fate != Fate::Alive {
            // A container that begins connections and gives them up is one that does not complete them.
            return if self.phase == Phase::Open { Worth::Something } else { Worth::Nothing };
        }
        let now = flow.progress();
        match (self.phase, now.phase) {
            (Phase::SynReceived, Phase::Open) if flow.listener.is_none() => Worth::Completion,
            _ if now == self => Worth::Nothing,
            _ => Worth::Something,
        }
    }
}

/// A connection.
#[derive(Debug)]
pub(super) struct Flow {
    pub key: Key,
    pub port: PortId,
    /// Its container's account, and its place in there.
    pub account: u32,
    pub place: u32,
    /// Names it among all flows that ever were.
    pub serial: u64,
    pub socket: Option<SocketId>,
    /// The other end of the host socket.
    pub dial: Endpoint,
    /// The published port that it came by, which may be withdrawn by now.
    pub listener: Option<ListenerId>,
    /// The host's address and port that a client of it asked for.
    pub asked: Option<Endpoint>,
    pub phase: Phase,
    /// Counted as half-open.
    pub half_open: bool,
    pub rx: Receive,
    pub tx: Send,
    /// The first error of the host socket.
    pub error: Option<Failure>,
    /// The host socket was read to its end, or to its error.
    pub drained: bool,
    /// The socket may have something to read, and room to write.
    pub readable: bool,
    pub writable: bool,
    /// The container refused the connection.
    pub refused: bool,
    /// We sent our FIN before the container's came: the TIME_WAIT is ours.
    pub first_to_end: bool,
    /// What is added to the clock for our timestamps.
    pub stamp_offset: u32,
    stamps: Option<Stamps>,
    pub sack: bool,
    /// Of the container's packets.
    mark: Mark,
    keepalive: bool,
    pub born: Instant,
    /// When the container last sent something.
    heard: Instant,
    /// Probes that it has not answered.
    probes: u32,
    last_answer: Option<Instant>,
    /// An acknowledgement is owed at the end of the turn.
    pub ack_pending: bool,
    /// It is owed at once.
    pub ack_now: bool,
    /// On the engine's list of flows that owe one.
    pub queued: bool,
    /// There is more to send than one call may.
    pub more: bool,
    pub fate: Fate,
}

impl Flow {
    /// A flow that is neither connected nor answered.
    pub fn new(key: Key, port: PortId, dial: Endpoint, phase: Phase, config: &Config, now: Instant) -> Flow {
        Flow {
            key,
            port,
            account: 0,
            place: 0,
            serial: 0,
            socket: None,
            dial,
            listener: None,
            asked: None,
            phase,
            half_open: false,
            rx: Receive::default(),
            tx: Send::new(0, config.flight_initial, config.rto_initial),
            error: None,
            drained: false,
            readable: false,
            writable: true,
            refused: false,
            first_to_end: false,
            stamp_offset: 0,
            stamps: None,
            sack: false,
            mark: Mark::default(),
            keepalive: false,
            born: now,
            heard: now,
            probes: 0,
            last_answer: None,
            ack_pending: false,
            ack_now: false,
            queued: false,
            more: false,
            fate: Fate::Alive,
        }
    }

    /// See [`Progress`].
    #[inline]
    pub fn progress(&self) -> Progress {
        Progress {
            phase: self.phase,
            sending: (self.tx.una, self.tx.nxt, self.tx.edge, self.tx.retransmits),
            receiving: (self.rx.nxt, self.rx.early),
        }
    }

    /// The state in RFC 9293's words.
    pub fn state(&self) -> &'static str {
        match (self.phase, self.rx.ended, self.tx.fin) {
            (Phase::Connecting, _, _) => "CONNECTING",
            (Phase::SynSent, _, _) => "SYN_SENT",
            (Phase::SynReceived, _, _) => "SYN_RECV",
            (Phase::Open, false, Fin::No) => "ESTABLISHED",
            (Phase::Open, true, Fin::No) => "CLOSE_WAIT",
            (Phase::Open, false, Fin::Sent) if self.tx.is_finished() => "FIN_WAIT2",
            (Phase::Open, false, Fin::Sent) => "FIN_WAIT1",
            (Phase::Open, true, Fin::Sent) if self.tx.is_finished() => "TIME_WAIT",
            (Phase::Open, true, Fin::Sent) => "LAST_ACK",
        }
    }

    /// Takes from the container's SYN what it tells.
    pub fn learn(&mut self, s: &Segment<'_>, cx: &mut Context<'_>) {
        self.rx.irs = s.seq;
        self.rx.nxt = s.seq.wrapping_add(1);
        self.rx.edge = self.rx.nxt;
        self.sack = s.sack_permitted;
        self.stamps = s.stamps.map(|(value, _)| Stamps { recent: value, recent_at: cx.now });
        (self.tx.scale, self.rx.scale) = match s.scale {
            Some(theirs) => (theirs, cx.config.scale()),
            None => (0, 0),
        };
        let is_v4 = self.key.inside.addr.is_v4();
        // RFC 9293 3.7.1: what holds when the option is missing.
        let theirs = s.mss.unwrap_or(if is_v4 { 536 } else { 1220 });
        self.tx.set_mss(theirs, cx.lower.mtu(self.key.network), is_v4, self.option_len());
        self.tx.set_window(s.seq, s.ack, u32::from(s.window));
        self.mark = s.mark;
    }

    /// Bytes of options on every segment.
    pub fn option_len(&self) -> u16 {
        if self.stamps.is_some() { 12 } else { 0 }
    }

    /// Bytes of headers on every segment.
    pub fn headers(&self) -> usize {
        let ip = if self.key.inside.addr.is_v4() { 20 } else { 40 };
        ip + tcp::MIN_LEN + usize::from(self.option_len())
    }

    /// The header of a segment, which acknowledges all that came.
    pub fn header(&mut self, seq: u32, flags: u8, cx: &mut Context<'_>) -> Header {
        let mut options = Options::default();
        let window = if flags & tcp::SYN != 0 {
            let is_v4 = self.key.inside.addr.is_v4();
            options.mss = Some(mss_for(cx.lower.mtu(self.key.network), is_v4));
            let first = self.phase == Phase::SynSent;
            options.sack_permitted = self.sack || first;
            options.scale = (first || self.rx.scale > 0).then(|| cx.config.scale());
            // The window of a SYN is never scaled (RFC 7323 2.2).
            let field = self.rx.cap.min(u32::from(u16::MAX));
            self.rx.edge = self.rx.nxt.wrapping_add(field);
            field as u16
        } else {
            self.grow_window(cx);
            let mss = u32::from(self.tx.mss);
            self.rx.advertise(mss)
        };
        let echo = self.stamps.map(|s| s.recent);
        if echo.is_some() || self.phase == Phase::SynSent {
            options.stamps = Some((stamp(cx.now, self.stamp_offset), echo.unwrap_or(0)));
        }
        // What has SACK blocks to tell is told by a segment of its own: they would not fit before data.
        if flags & tcp::ACK != 0 && !self.rx.has_holes() {
            self.ack_pending = false;
            self.ack_now = false;
        }
        Header {
            from: self.key.outside,
            to: self.key.inside,
            seq,
            ack: if flags & tcp::ACK != 0 { self.rx.nxt } else { 0 },
            flags,
            window,
            urgent: 0,
            options,
            mss: self.tx.mss,
        }
    }

    /// Acknowledges, if that is owed.
    pub fn flush(&mut self, cx: &mut Context<'_>) {
        if !self.ack_pending || self.fate != Fate::Alive || matches!(self.phase, Phase::Connecting | Phase::SynSent) {
            return;
        }
        let mut header = self.header(self.tx.nxt, tcp::ACK, cx);
        if self.sack && self.rx.has_holes() {
            let max = if header.options.stamps.is_some() { 3 } else { 4 };
            header.options.sack_count = self.rx.sack_blocks(max, &mut header.options.sacks);
        }
        (self.ack_pending, self.ack_now) = (false, false);
        build::send_bare(cx.lower, self.key.network, &header);
    }

    /// Sends our SYN, or SYN-ACK.
    pub fn send_syn(&mut self, cx: &mut Context<'_>) {
        let flags = if self.phase == Phase::SynSent { tcp::SYN } else { tcp::SYN | tcp::ACK };
        let header = self.header(self.tx.iss, flags, cx);
        self.tx.nxt = self.tx.iss.wrapping_add(1);
        self.tx.end = self.tx.nxt;
        build::send_bare(cx.lower, self.key.network, &header);
        self.tx.alarm = Some(cx.now + self.tx.timeout(cx.config.rto_max));
    }

    /// Gives the flow its window.
    pub fn open_window(&mut self, cx: &mut Context<'_>) {
        let ample = cx.memory.is_half_free(&cx.account.usage);
        self.rx.cap = if ample { cx.config.window_initial } else { cx.config.window_floor };
    }

    /// A segment from the container.
    pub fn segment(&mut self, s: &Segment<'_>, cx: &mut Context<'_>) -> Result<(), DropReason> {
        match self.phase {
            Phase::Connecting => self.in_connecting(s, cx),
            Phase::SynSent => self.in_syn_sent(s, cx),
            Phase::SynReceived | Phase::Open => self.in_synchronized(s, cx),
        }
    }

    /// The container waits for its SYN-ACK.
    fn in_connecting(&mut self, s: &Segment<'_>, cx: &mut Context<'_>) -> Result<(), DropReason> {
        if s.has(tcp::RST) {
            if s.seq != self.rx.nxt {
                return Err(DropReason::InvalidState);
            }
            self.close_socket(Close::Reset, cx);
            self.fate = Fate::Gone;
            return Ok(());
        }
        if s.has(tcp::ACK) {
            build::refuse(cx.lower, self.key.network, self.key.outside, self.key.inside, s);
            return Err(DropReason::InvalidState);
        }
        // A SYN that came again changes nothing.
        if s.has(tcp::SYN) { Ok(()) } else { Err(DropReason::InvalidState) }
    }

    /// RFC 9293 3.10.7.3.
    fn in_syn_sent(&mut self, s: &Segment<'_>, cx: &mut Context<'_>) -> Result<(), DropReason> {
        let acknowledges = s.has(tcp::ACK) && s.ack == self.tx.nxt;
        if s.has(tcp::ACK) && !acknowledges {
            if !s.has(tcp::RST) {
                build::refuse(cx.lower, self.key.network, self.key.outside, self.key.inside, s);
            }
            return Err(DropReason::InvalidState);
        }
        if s.has(tcp::RST) {
            if !acknowledges {
                return Err(DropReason::InvalidState);
            }
            self.refused = true;
            self.close_socket(Close::Reset, cx);
            self.fate = Fate::Gone;
            return Ok(());
        }
        if !s.has(tcp::SYN) {
            return Err(DropReason::InvalidState);
        }
        self.learn(s, cx);
        if let Some(id) = self.socket {
            cx.lower.sockets().mark(id, self.mark);
        }
        self.heard = cx.now;
        if acknowledges {
            self.tx.una = s.ack;
            self.opened(cx);
            self.ack_pending = true;
            self.ack_now = true;
            self.more |= self.pump(cx.config.turn, cx);
        } else {
            // Both have sent a SYN at once.
            self.phase = Phase::SynReceived;
            self.send_syn(cx);
        }
        Ok(())
    }

    /// How the host's connect ended, which the container is told: a SYN-ACK, an RST, an ICMP error, silence.
    pub fn connected(&mut self, outcome: Result<(), Failure>, cx: &mut Context<'_>) {
        let why = match outcome {
            Ok(()) => {
                self.phase = Phase::SynReceived;
                self.open_window(cx);
                self.tx.time(self.tx.iss.wrapping_add(1), cx.now);
                self.send_syn(cx);
                return;
            }
            Err(Failure::WouldBlock) => return,
            Err(why) => why,
        };
        self.error = Some(why);
        cx.stats.refused += 1;
        match why {
            Failure::HostUnreachable => self.complain(Unreachable::Host, cx),
            Failure::NetUnreachable => self.complain(Unreachable::Net, cx),
            Failure::Prohibited => self.complain(Unreachable::Prohibited, cx),
            Failure::TimedOut => cx.lower.count(self.port, DropReason::ConnectTimeout),
            Failure::NoAddress | Failure::InUse => cx.lower.count(self.port, DropReason::PortsExhausted),
            Failure::NoFiles | Failure::NoMemory => cx.lower.count(self.port, DropReason::NoSocket),
            Failure::WouldBlock | Failure::Refused | Failure::Reset | Failure::TooLong | Failure::Other(_) => {
                self.reset(cx);
                return;
            }
        }
        self.close_socket(Close::Reset, cx);
        self.fate = Fate::Gone;
    }

    /// An ICMP error about the container's SYN, from the gateway if there is one in its family.
    fn complain(&self, what: Unreachable, cx: &mut Context<'_>) {
        let us = cx.lower.gateway(self.key.network).filter(|g| g.is_v4() == self.key.inside.addr.is_v4());
        if let Some(us) = us {
            let id = cx.lower.random() as u16; // any will do
            build::complain(cx.lower, &self.key, us, self.rx.irs, what, id);
        }
    }

    fn opened(&mut self, cx: &mut Context<'_>) {
        self.phase = Phase::Open;
        self.rx.cap = self.rx.cap.min(self.rx.tellable());
        if std::mem::take(&mut self.tx.retries) > 0 {
            self.tx.start_over(cx.config.rto_after_lost_syn);
        }
        self.tx.alarm = None;
        self.tx.measure(self.tx.una, cx.config.rto_min, cx.now);
        cx.stats.opened += 1;
    }

    /// RFC 9293 3.10.7.4.
    fn in_synchronized(&mut self, s: &Segment<'_>, cx: &mut Context<'_>) -> Result<(), DropReason> {
        let end = s.seq.wrapping_add(s.len());
        // As Linux `tcp_sequence`: a sender whose window is full acknowledges from its edge.
        let fits = !before(end, self.rx.nxt) && !after(s.seq, self.rx.edge);
        if s.has(tcp::RST) {
            // Its socket is gone, as it should be; what was acknowledged is still the host's to take (RFC 1337).
            if self.is_over_inside() {
                return Err(DropReason::InvalidState);
            }
            // RFC 5961 3.2: exactly the next byte, or a challenge.
            if fits && s.seq == self.rx.nxt {
                cx.stats.resets += 1;
                self.refused = self.phase == Phase::SynReceived && self.listener.is_some();
                self.close_socket(Close::Reset, cx);
                self.fate = Fate::Gone;
                return Ok(());
            }
            if fits {
                self.answer_misfit(cx);
            }
            return Err(DropReason::InvalidState);
        }
        self.heard = cx.now;
        self.probes = 0;
        if s.has(tcp::SYN) {
            let of_the_opening = self.phase == Phase::SynReceived && s.seq == self.rx.irs;
            if of_the_opening && !s.has(tcp::ACK) {
                self.send_syn(cx);
                return Ok(());
            }
            if of_the_opening && s.ack == self.tx.nxt {
                // Both had sent a SYN at once, and this answers ours (RFC 9293 3.5). Its window is not scaled.
                self.tx.una = s.ack;
                self.tx.set_window(s.seq, s.ack, u32::from(s.window));
                self.opened(cx);
                self.ack_pending = true;
                self.more |= self.pump(cx.config.turn, cx);
                return Ok(());
            }
            // RFC 5961 4.2.
            self.answer_misfit(cx);
            return Err(DropReason::InvalidState);
        }
        if let (Some(stamps), Some((value, _))) = (&mut self.stamps, s.stamps) {
            if before(value, stamps.recent) && cx.now.since(stamps.recent_at) < STAMP_LIFE {
                // PAWS (RFC 7323 5.3).
                cx.stats.old_duplicates += 1;
                self.ack_pending = true;
                return Err(DropReason::InvalidState);
            }
            if fits && !after(s.seq, self.rx.nxt) {
                (stamps.recent, stamps.recent_at) = (value, cx.now);
            }
        }
        if !fits {
            self.notice_keepalive(s, cx);
            if s.len() > 0 {
                self.ack_pending = true;
            } else {
                self.answer_misfit(cx);
            }
            return Ok(());
        }
        if !s.has(tcp::ACK) {
            return Err(DropReason::InvalidState);
        }
        if self.phase == Phase::SynReceived {
            if s.ack != self.tx.nxt {
                build::refuse(cx.lower, self.key.network, self.key.outside, self.key.inside, s);
                return Err(DropReason::InvalidState);
            }
            self.tx.una = s.ack;
            self.tx.set_window(s.seq, s.ack, u32::from(s.window) << self.tx.scale);
            self.opened(cx);
        }
        if s.payload.len() == 1 {
            self.notice_keepalive(s, cx);
        }
        self.acknowledge(s, cx)?;
        self.follow_mark(s, cx);
        let received = if s.len() > 0 { self.receive(s, cx) } else { Ok(()) };
        self.more |= self.pump(cx.config.turn, cx);
        self.complete(cx);
        received
    }

    /// An acknowledgement for what does not fit, but not for ever.
    pub(super) fn answer_misfit(&mut self, cx: &mut Context<'_>) {
        if self.last_answer.is_none_or(|at| cx.now.since(at) >= OUT_OF_WINDOW) {
            self.last_answer = Some(cx.now);
            self.ack_pending = true;
        }
    }

    /// A container that asks whether we are alive wants to know of the far end. What asks about a closed window
    /// looks the same.
    fn notice_keepalive(&mut self, s: &Segment<'_>, cx: &mut Context<'_>) {
        let asks = s.seq.wrapping_add(1) == self.rx.nxt && s.payload.len() <= 1 && !s.has(tcp::FIN | tcp::SYN);
        if asks && !self.keepalive && self.phase == Phase::Open && self.rx.window() > 0 {
            self.keepalive = true;
            if let Some(id) = self.socket {
                cx.lower.sockets().keepalive(id);
            }
        }
    }

    /// The far path sees the container's type of service.
    fn follow_mark(&mut self, s: &Segment<'_>, cx: &mut Context<'_>) {
        if self.mark.tos != s.mark.tos
            && let Some(id) = self.socket
        {
            // The time to live of the SYN stays: it had crossed the gateway, those of later segments are not looked at.
            self.mark.tos = s.mark.tos;
            cx.lower.sockets().mark(id, self.mark);
        }
    }

    /// The host socket has something to say; `true`: there is more to do.
    pub fn ready(&mut self, ready: Ready, cx: &mut Context<'_>) -> bool {
        self.readable |= ready.readable || ready.error;
        self.writable |= ready.writable && self.error.is_none();
        if self.phase != Phase::Open {
            return false;
        }
        if ready.error {
            self.check_socket(cx);
        }
        if ready.writable || ready.error {
            self.writable = self.error.is_none();
            self.drain(cx);
        }
        let more = self.pump(cx.config.turn, cx);
        self.complete(cx);
        self.flush(cx);
        more
    }

    /// Ends the flow when both directions have.
    pub fn complete(&mut self, cx: &mut Context<'_>) {
        if self.fate != Fate::Alive || self.phase != Phase::Open {
            return;
        }
        if self.error.is_some() {
            self.pump(cx.config.turn, cx);
            return;
        }
        if self.drained && self.rx.finished {
            // Both ends of the host's connection are said; what the kernel still has it delivers on its own.
            self.close_socket(Close::Orderly, cx);
            if self.tx.is_finished() {
                self.flush(cx);
                self.fate = if self.first_to_end { Fate::TimeWait } else { Fate::Gone };
            }
        }
    }

    /// When the flow wants to be woken.
    pub fn deadline(&self, config: &Config) -> Instant {
        let idle = match self.phase {
            Phase::Connecting => return self.born + config.connect_timeout,
            Phase::SynSent | Phase::SynReceived => return self.tx.alarm.unwrap_or(self.born),
            Phase::Open if self.rx.ended || self.tx.fin == Fin::Sent => config.probe_half_closed,
            Phase::Open => config.probe_idle,
        };
        let idle = self.heard + idle + config.probe_interval.saturating_mul(self.probes);
        self.tx.alarm.map_or(idle, |at| at.min(idle))
    }

    /// Something is due.
    pub fn timeout(&mut self, cx: &mut Context<'_>) {
        match self.phase {
            Phase::Connecting => {
                cx.stats.timeouts += 1;
                cx.lower.count(self.port, DropReason::ConnectTimeout);
                self.close_socket(Close::Reset, cx);
                self.fate = Fate::Gone;
                return;
            }
            Phase::SynSent | Phase::SynReceived => {
                if self.tx.alarm.is_none_or(|at| at <= cx.now) {
                    self.tx.retries += 1;
                    if self.tx.retries > cx.config.syn_retries {
                        cx.stats.timeouts += 1;
                        self.reset(cx);
                        return;
                    }
                    self.tx.back_off();
                    self.send_syn(cx);
                }
                return;
            }
            Phase::Open => {}
        }
        if self.tx.alarm.is_some_and(|at| at <= cx.now) {
            self.alarm(cx);
            self.complete(cx);
        }
        if self.is_over_inside() {
            // Nobody is there to be asked; the host's socket tells how it ends.
            self.heard = cx.now;
        }
        if self.fate == Fate::Alive && self.deadline(cx.config) <= cx.now {
            self.probes += 1;
            if self.probes > cx.config.probes {
                cx.stats.timeouts += 1;
                self.error.get_or_insert(Failure::TimedOut);
                self.reset(cx);
                return;
            }
            self.probe(cx);
        }
        self.flush(cx);
    }

    /// Have both ends been said and acknowledged? The container keeps no socket for it then.
    pub fn is_over_inside(&self) -> bool {
        self.rx.ended && self.tx.is_finished()
    }

    /// How long the container's silence is, for listings: since it last sent something.
    pub fn silence(&self, now: Instant) -> Duration {
        now.since(self.heard)
    }

    /// What a TIME_WAIT keeps: our next sequence number, the container's next and its window field, its last timestamp.
    pub fn last_words(&mut self) -> (u32, u32, u16, Option<u32>) {
        let mss = u32::from(self.tx.mss);
        let window = self.rx.advertise(mss);
        (self.tx.nxt, self.rx.nxt, window, self.stamps.map(|s| s.recent))
    }

    /// Is `seq` of ours still unacknowledged? What an ICMP error must quote to be believed (RFC 5927 4).
    pub fn has_in_flight(&self, seq: u32) -> bool {
        distance(self.tx.una, seq) < self.tx.flight() && !before(seq, self.tx.una)
    }
}
