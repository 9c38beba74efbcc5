//! From the host to the container: received straight into a chunk, sent from it, kept in it until acknowledged.
//!
//! # Theory of operation
//! A device takes whatever is written to it, and drops it silently when its queue is full; so nothing but the limit on
//! bytes in flight holds us back. It is a congestion window: byte-counting NewReno (RFC 5681, RFC 6582) that begins with
//! 256 KiB, with SACK (RFC 6675) where the container has it. Of a container with many flows each may have less: nothing is gained by
//! what only waits in its kernel, and our copies of it leave the CPU's caches (`flight_together`). The first link keeps order, so a SACKed byte above a hole
//! means a loss, and a lost super-frame is sent again as one. Above the last bytes there is nothing to be SACKed: when
//! nothing was acknowledged for two round trips, the last packet is sent again as a probe (RFC 8985 7), and what the
//! container answers tells what is missing. Only after that comes the timeout.
//!
//! ```text
//!       una            rtx.next               nxt = end (+ 1 with FIN)
//!  ------|- chunk -|- chunk -|- chunk -|- chunk -|-------
//!        acknowledged up to here                 received from the host up to here
//! ```
//!
//! Nothing is received from the host that cannot be sent at once: what the container does not want yet waits in the host
//! socket. Hence `end == nxt` but for a FIN, and a closed window costs no memory. When the window is closed and the
//! socket has more, the container is asked about its window (RFC 9293 3.8.6.1) by a segment it must answer.

use std::collections::VecDeque;
use std::time::Duration;

use super::build::{self, Header};
use super::flow::{Context, Fate, Flow, Phase};
use super::pool::{Chunk, Class, HEAD, LARGEST, Memory, Toward, Usage};
use super::ranges::Ranges;
use super::segment::{Segment, after, before, distance, earlier, later, mss_for};
use crate::core::counters::DropReason;
use crate::core::socket::{Close, Failure};
use crate::core::time::Instant;
use crate::frame::MAX_SEGMENTS;
use crate::wire::ip::tcp;

/// Linux `TCP_MIN_MSS`: a container that asks for less gets this.
const MIN_MSS: u16 = 88;

/// Results of recv up to this are appended to the last chunk when it has room.
const APPEND: usize = 16_384;

/// Results of recv from this on keep the chunk they were received into.
const KEEP: usize = 24_576;

/// Duplicate acknowledgements that mean a loss (RFC 5681 3.2), and SACKed segments (RFC 6675 2).
const DUPLICATES: u32 = 3;

/// How old an acknowledgement may be whatever the container's window was, bytes.
const MIN_REACH: u32 = 65_536;

/// Questions about a closed window before the end of a connection that failed is told, whatever the container would still
/// read: five seconds or so. A sender that has gone takes along what the window held back.
const PATIENCE: u32 = 4;

/// The urgent pointer of a segment: from its first byte to that behind the `urgent` one, as all have it (RFC 6093 3.1); 0:
/// nothing in it is urgent.
fn urgent_pointer(urgent: Option<u32>, seq: u32, len: u32) -> u16 {
    let at = urgent.map(|urgent| urgent.wrapping_sub(seq)).filter(|at| *at < len);
    at.map_or(0, |at| (at + 1).min(u32::from(u16::MAX)) as u16)
}

/// The end of our data.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Fin {
    /// The host has not ended.
    No,
    /// It has, and the container was told.
    Sent,
}

/// What is sent again.
#[derive(Clone, Copy, Debug)]
struct Recovery {
    kind: Lost,
    /// It ends when this is acknowledged.
    until: u32,
    /// Sent again up to here.
    next: u32,
    /// The next retransmission goes out whatever the window says.
    force: bool,
}

/// What is taken for lost.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Lost {
    /// What lies below a SACKed byte.
    Holes,
    /// Up to here: a super-frame from the first byte on. There is no SACK.
    UpTo(u32),
    /// All up to the end of the recovery: after a timeout.
    All,
}

/// The sending half of a flow.
#[derive(Debug)]
pub(super) struct Send {
    /// Our initial sequence number.
    pub iss: u32,
    /// The first byte that is not acknowledged.
    pub una: u32,
    /// The next byte to be sent.
    pub nxt: u32,
    /// One past the last byte of data in `queue`.
    pub end: u32,
    pub fin: Fin,
    /// The container's window, bytes.
    pub wnd: u32,
    max_wnd: u32,
    /// The furthest right edge of the container's window so far.
    pub edge: u32,
    wl1: u32,
    wl2: u32,
    /// The container's window scale.
    pub scale: u8,
    /// Payload of a packet, bytes.
    pub mss: u16,
    queue: VecDeque<Chunk>,
    /// Congestion window, bytes.
    pub cwnd: u32,
    ssthresh: u32,
    /// Bytes acknowledged toward the next step of congestion avoidance.
    credit: u32,
    sacked: Ranges,
    duplicates: u32,
    recovery: Option<Recovery>,
    /// The end of the last recovery, while it is not acknowledged: what lies before is not lost a second time for the same
    /// reason.
    recovered: Option<u32>,
    srtt: Option<Duration>,
    rttvar: Duration,
    rto: Duration,
    backoff: u32,
    /// The end of a segment that is timed, and when it was sent.
    timed: Option<(u32, Instant)>,
    /// When to retransmit, to probe, or to ask about the window.
    pub alarm: Option<Instant>,
    /// The alarm is for a probe; this is when to retransmit.
    timeout_at: Option<Instant>,
    /// The container's reader took less than half of what was acknowledged last.
    stands: bool,
    /// The end of a probe that was sent, until it is known whether what it repeated had been lost.
    probe_end: Option<u32>,
    /// Alarms since the container was last heard of to some effect.
    pub retries: u32,
    /// Data waits for a window that is closed, and nothing is in flight.
    blocked: bool,
    /// Bytes acknowledged.
    pub bytes: u64,
    /// Segments sent again.
    pub retransmits: u64,
    /// The urgent byte, until it is acknowledged.
    urgent: Option<u32>,
}

impl Send {
    pub fn new(iss: u32, initial_window: u32, rto: Duration) -> Send {
        Send {
            iss,
            una: iss,
            nxt: iss,
            end: iss.wrapping_add(1),
            fin: Fin::No,
            wnd: 0,
            max_wnd: 0,
            edge: iss,
            wl1: 0,
            wl2: 0,
            scale: 0,
            mss: MIN_MSS,
            queue: VecDeque::new(),
            cwnd: initial_window,
            ssthresh: u32::MAX,
            credit: 0,
            sacked: Ranges::default(),
            duplicates: 0,
            recovery: None,
            recovered: None,
            srtt: None,
            rttvar: Duration::ZERO,
            rto,
            backoff: 0,
            timed: None,
            alarm: None,
            timeout_at: None,
            stands: false,
            probe_end: None,
            retries: 0,
            blocked: false,
            bytes: 0,
            retransmits: 0,
            urgent: None,
        }
    }

    /// The payload of a packet: what the container takes, what its link takes, less the options on every segment.
    pub fn set_mss(&mut self, theirs: u16, mtu: usize, is_v4: bool, options: u16) {
        let mss = theirs.min(mss_for(mtu, is_v4)).max(MIN_MSS);
        self.mss = mss - options;
    }

    /// Was the FIN acknowledged?
    pub fn is_finished(&self) -> bool {
        self.fin == Fin::Sent && self.una == self.end.wrapping_add(1)
    }

    /// Sent and not acknowledged, bytes.
    pub fn flight(&self) -> u32 {
        self.nxt.wrapping_sub(self.una)
    }

    /// The window of a segment, if the segment is not older than the last that told one.
    pub fn update_window(&mut self, seq: u32, ack: u32, window: u32) {
        if before(self.wl1, seq) || self.wl1 == seq && !before(ack, self.wl2) {
            (self.wl1, self.wl2, self.wnd) = (seq, ack, window);
            self.max_wnd = self.max_wnd.max(window);
            self.edge = later(self.edge, ack.wrapping_add(window));
        }
    }

    /// The first window.
    pub fn set_window(&mut self, seq: u32, ack: u32, window: u32) {
        (self.wl1, self.wl2, self.wnd, self.max_wnd) = (seq, ack, window, window);
        self.edge = ack.wrapping_add(window);
    }

    /// The timeout with its backoff.
    pub fn timeout(&self, max: Duration) -> Duration {
        self.rto.saturating_mul(1 << self.backoff.min(16)).min(max)
    }

    /// How long to wait before the last packet is sent again as a probe (RFC 8985 7.2), where that can help: `None` where
    /// it cannot, and where the acknowledgement may only be delayed: of a single packet, and of any that does not move the
    /// window of a reader that stands (Linux `__tcp_ack_snd_check`).
    fn probe_wait(&self, min: Duration) -> Option<Duration> {
        let is_open = self.recovery.is_none() && self.probe_end.is_none() && self.backoff == 0;
        if !is_open || self.flight() <= u32::from(self.mss) || self.wnd == 0 || self.stands {
            return None;
        }
        Some((self.srtt? * 2).max(min))
    }

    /// A longer timeout after each alarm.
    pub fn back_off(&mut self) {
        self.backoff += 1;
        self.timed = None;
    }

    /// The timeout is this one, whatever it had grown to.
    pub fn start_over(&mut self, rto: Duration) {
        (self.rto, self.backoff) = (rto, 0);
    }

    /// Begins to time a segment that ends at `end`.
    pub fn time(&mut self, end: u32, now: Instant) {
        self.timed.get_or_insert((end, now));
    }

    /// Takes the round-trip time of a timed segment (RFC 6298 2).
    pub fn measure(&mut self, ack: u32, min: Duration, now: Instant) {
        let Some((end, sent)) = self.timed else { return };
        if before(ack, end) {
            return;
        }
        self.timed = None;
        let rtt = now.since(sent);
        let srtt = match self.srtt {
            None => {
                self.rttvar = rtt / 2;
                rtt
            }
            Some(srtt) => {
                self.rttvar = (self.rttvar * 3 + srtt.abs_diff(rtt)) / 4;
                (srtt * 7 + rtt) / 8
            }
        };
        self.srtt = Some(srtt);
        self.rto = (srtt + self.rttvar * 4).max(min);
        self.backoff = 0;
    }

    /// The longest payload of a super-frame that packets of `mss` make, bytes. `headers`: IP and TCP with options.
    fn frame_limit(&self, headers: usize) -> u32 {
        let mss = usize::from(self.mss);
        let most = LARGEST.min(usize::from(u16::MAX) - headers).min(mss * MAX_SEGMENTS);
        (most / mss * mss) as u32 // at most 65,535
    }

    fn unsacked(&self, from: u32, to: u32) -> u32 {
        distance(from, to) - self.sacked.covered(from, to)
    }

    /// Up to where bytes are taken for lost.
    fn lost_until(&self, r: &Recovery) -> u32 {
        match r.kind {
            Lost::Holes => self.sacked.end().unwrap_or(self.una),
            Lost::UpTo(end) => end,
            Lost::All => r.until,
        }
    }

    /// Bytes that are under way, as far as is known (RFC 6675 4).
    fn pipe(&self) -> u32 {
        match &self.recovery {
            None => self.unsacked(self.una, self.nxt),
            Some(r) => {
                let lost = later(self.lost_until(r), r.next);
                self.unsacked(self.una, r.next) + self.unsacked(lost, self.nxt)
            }
        }
    }

    /// New bytes that may be sent, with no more than `share` in flight.
    fn room(&self, share: u32) -> u32 {
        self.wnd.saturating_sub(self.flight()).min(self.cwnd.min(share).saturating_sub(self.pipe()))
    }

    /// Is so little room worth a segment (RFC 9293 3.8.6.2.1)?
    fn is_worth(&self, room: u32) -> bool {
        room > 0 && (room >= u32::from(self.mss) || room >= self.max_wnd / 2)
    }

    /// Frees what was acknowledged.
    fn release(&mut self, ack: u32, memory: &mut Memory, usage: &mut Usage) {
        let mut len = distance(self.una, earlier(ack, self.end)) as usize;
        self.bytes += len as u64;
        while len > 0 {
            let Some(chunk) = self.queue.front_mut() else { break };
            let part = len.min(chunk.len());
            chunk.start += part;
            len -= part;
            if chunk.len() == 0
                && let Some(chunk) = self.queue.pop_front()
            {
                memory.give(Toward::Container, usage, chunk);
            }
        }
    }

    /// Opens the congestion window for `acked` bytes.
    fn open_cwnd(&mut self, acked: u32, max: u32) {
        if self.cwnd < self.ssthresh {
            self.cwnd = self.cwnd.saturating_add(acked);
        } else {
            self.credit = self.credit.saturating_add(acked);
            if self.credit >= self.cwnd {
                self.credit -= self.cwnd;
                self.cwnd = self.cwnd.saturating_add(u32::from(self.mss));
            }
        }
        self.cwnd = self.cwnd.min(max);
    }

    /// Halves what may be in flight, after a loss.
    fn halve(&mut self) {
        self.ssthresh = (self.flight() / 2).max(2 * u32::from(self.mss));
        self.credit = 0;
    }
}

impl Flow {
    /// The acknowledgement in a segment; an error ends the segment here.
    pub(super) fn acknowledge(&mut self, s: &Segment<'_>, cx: &mut Context<'_>) -> Result<(), DropReason> {
        if after(s.ack, self.tx.nxt) {
            self.ack_pending = true;
            return Err(DropReason::InvalidState);
        }
        if distance(s.ack, self.tx.una) > self.tx.max_wnd.max(MIN_REACH) {
            // RFC 5961 5.2: older than anything that can still be about.
            self.answer_misfit(cx);
            return Err(DropReason::InvalidState);
        }
        let window = u32::from(s.window) << self.tx.scale;
        let old = before(s.ack, self.tx.una);
        let same_window = window == self.tx.wnd;
        let (right, was_closed) = (self.tx.una.wrapping_add(self.tx.wnd), self.tx.wnd == 0);
        if !old {
            self.tx.update_window(s.seq, s.ack, window);
        }
        if was_closed && self.tx.wnd > 0 {
            // The questions were answered: what comes now is not late, and what was in flight may have been thrown away.
            self.tx.backoff = 0;
            if self.tx.flight() > 0 {
                self.arm(cx);
            }
        }
        if self.sack {
            self.take_sacks(s);
        }
        if after(s.ack, self.tx.una) {
            self.acknowledged(s.ack, right, cx);
        } else if !old {
            let tx = &mut self.tx;
            if s.payload.is_empty() && same_window && tx.flight() > 0 && !s.has(tcp::FIN) {
                tx.duplicates += 1;
            }
            if tx.wnd == 0 {
                tx.retries = 0; // it lives, and takes nothing
            }
        }
        self.detect_loss(cx);
        Ok(())
    }

    /// What the container has beyond a hole.
    fn take_sacks(&mut self, s: &Segment<'_>) {
        let tx = &mut self.tx;
        for &(left, right) in s.sacks() {
            // A block below `una` is about a duplicate (RFC 2883).
            if after(left, tx.una) && !after(right, tx.nxt) && before(left, right) {
                tx.sacked.insert(left, right);
            }
            if tx.probe_end == Some(right) && !after(right, s.ack) {
                tx.probe_end = None; // nothing was lost, the probe came twice
            }
        }
    }

    /// The container has all before `ack`, and had not before. `right`: the edge of its window until now.
    fn acknowledged(&mut self, ack: u32, right: u32, cx: &mut Context<'_>) {
        let headers = self.headers();
        let tx = &mut self.tx;
        let frame = tx.frame_limit(headers);
        let acked = ack.wrapping_sub(tx.una);
        let was_full = tx.flight() >= tx.cwnd / 2;
        tx.stands = distance(right, ack.wrapping_add(tx.wnd)) < acked / 2;
        tx.release(ack, cx.memory, &mut cx.account.usage);
        tx.una = ack;
        tx.sacked.forget_before(ack);
        (tx.duplicates, tx.retries, tx.backoff) = (0, 0, 0);
        tx.measure(ack, cx.config.rto_min, cx.now);
        match &mut tx.recovery {
            Some(r) if before(ack, r.until) => {
                r.next = later(r.next, ack);
                if let Lost::UpTo(_) = r.kind {
                    r.kind = Lost::UpTo(earlier(ack.wrapping_add(frame), r.until));
                    r.force = true;
                }
                if r.kind == Lost::All {
                    tx.open_cwnd(acked, cx.config.flight_max);
                }
            }
            Some(r) => {
                if r.kind != Lost::All {
                    tx.cwnd = tx.ssthresh;
                }
                tx.recovered = Some(r.until);
                tx.recovery = None;
            }
            None if was_full => tx.open_cwnd(acked, cx.config.flight_max),
            None => {}
        }
        tx.recovered = tx.recovered.filter(|end| !after(tx.una, *end)); // RFC 6582 3.2
        tx.urgent = tx.urgent.filter(|at| !before(*at, tx.una));
        if let Some(end) = tx.probe_end
            && after(ack, end)
        {
            // RFC 8985 7.4: the probe has mended a loss, which means what any loss means.
            tx.probe_end = None;
            if tx.recovery.is_none() {
                tx.halve();
                tx.cwnd = tx.ssthresh;
                cx.stats.losses += 1;
            }
        }
        if tx.una == tx.nxt {
            (tx.alarm, tx.timeout_at) = (None, None);
        } else {
            self.arm(cx);
        }
    }

    fn detect_loss(&mut self, cx: &mut Context<'_>) {
        let limit = self.headers();
        let tx = &mut self.tx;
        if tx.recovery.is_some() || tx.flight() == 0 {
            return;
        }
        let kind = if let Some(end) = tx.sacked.end() {
            let above = tx.sacked.covered(tx.una, tx.nxt);
            if above < DUPLICATES * u32::from(tx.mss) && end != tx.nxt && tx.duplicates < DUPLICATES {
                return;
            }
            Lost::Holes
        } else {
            if self.sack || tx.duplicates < DUPLICATES || tx.recovered.is_some() {
                return;
            }
            Lost::UpTo(earlier(tx.una.wrapping_add(tx.frame_limit(limit)), tx.nxt))
        };
        tx.halve();
        tx.cwnd = tx.ssthresh;
        (tx.timed, tx.probe_end) = (None, None);
        tx.recovery = Some(Recovery { kind, until: tx.nxt, next: tx.una, force: true });
        cx.stats.losses += 1;
    }

    /// Sends what may be sent: first again, then new. `true`: `budget` bytes were sent and there may be more.
    pub(super) fn pump(&mut self, budget: usize, cx: &mut Context<'_>) -> bool {
        if self.phase != Phase::Open {
            return false;
        }
        self.retransmit(cx);
        let mut sent = 0;
        self.tx.blocked = false;
        while self.readable && self.tx.fin == Fin::No && self.fate == Fate::Alive {
            let crowded = cx.account.usage.in_flight() > cx.config.flight_together;
            let room = self.tx.room(if crowded { cx.config.flight_shared } else { u32::MAX });
            if !self.tx.is_worth(room) {
                self.tx.blocked = self.tx.flight() == 0;
                break;
            }
            if sent >= budget {
                return true;
            }
            match self.forward(room, cx) {
                0 => break,
                len => sent += len,
            }
        }
        self.end_if_drained(cx);
        if self.tx.flight() == 0 {
            // Armed once: each segment of the container would put off the question otherwise.
            let wait = self.tx.timeout(cx.config.rto_max);
            self.tx.alarm = self.tx.blocked.then(|| self.tx.alarm.unwrap_or(cx.now + wait));
            self.tx.timeout_at = None;
        }
        false
    }

    /// Receives at most `room` bytes from the host and sends them; how many, 0 if that ended.
    fn forward(&mut self, room: u32, cx: &mut Context<'_>) -> usize {
        let Some(id) = self.socket else {
            self.readable = false;
            return 0;
        };
        let mss = u32::from(self.tx.mss);
        let mut limit = room.min(self.tx.frame_limit(self.headers()));
        if limit > mss {
            limit -= limit % mss;
        }
        if !cx.memory.has_room(Toward::Container, &cx.account.usage, Class::Large) {
            if !self.tx.queue.is_empty() {
                return 0; // an acknowledgement frees memory and brings us back
            }
            limit = limit.min(Class::Small.room() as u32); // under 2,048
        }
        let urgent = cx.lower.sockets().at_mark(id);
        if urgent {
            limit = 1; // a segment of its own, however long a frame would be
        }
        let mut chunk = cx.memory.scratch();
        let len = match cx.lower.sockets().recv(id, &mut chunk.bytes[HEAD..HEAD + limit as usize]) {
            Ok(0) => {
                self.readable = false;
                self.drained = true;
                0
            }
            Ok(len) => len.min(limit as usize),
            Err(Failure::WouldBlock) => {
                self.readable = false;
                if self.error.is_some() {
                    // It failed, and what it had was read.
                    self.drained = true;
                }
                0
            }
            Err(why) => {
                self.fail(why);
                self.readable = false;
                self.drained = true;
                0
            }
        };
        if len == 0 {
            cx.memory.return_scratch(chunk);
            return 0;
        }
        let seq = self.tx.nxt;
        if urgent {
            self.tx.urgent = Some(seq);
        }
        chunk.end = HEAD + len;
        self.tx.nxt = seq.wrapping_add(len as u32); // at most 64 KiB
        self.tx.end = self.tx.nxt;
        self.tx.time(self.tx.nxt, cx.now);
        let mut header = self.header(seq, tcp::ACK | tcp::PSH, cx);
        header.urgent = urgent_pointer(self.tx.urgent, seq, len as u32); // at most 64 KiB
        build::send(cx.lower, self.key.network, &header, &mut chunk.bytes, HEAD, len, 0);
        self.keep(chunk, cx);
        if self.tx.alarm.is_none() || self.tx.flight() == len as u32 {
            self.arm(cx);
        }
        len
    }

    /// Sets the alarm for what is in flight.
    fn arm(&mut self, cx: &Context<'_>) {
        let timeout = cx.now + self.tx.timeout(cx.config.rto_max);
        let wait = if self.sack { self.tx.probe_wait(cx.config.probe_min) } else { None };
        let probe = wait.map(|wait| cx.now + wait).filter(|at| *at < timeout);
        self.tx.alarm = Some(probe.unwrap_or(timeout));
        self.tx.timeout_at = probe.map(|_| timeout);
    }

    /// An error of the socket is latched as soon as there is one, whatever is still to be read before it.
    pub(super) fn check_socket(&mut self, cx: &mut Context<'_>) {
        let Some(id) = self.socket else { return };
        if let Err(why) = cx.lower.sockets().outcome(id)
            && why != Failure::WouldBlock
        {
            self.fail(why);
        }
    }

    /// Keeps what was sent until it is acknowledged.
    fn keep(&mut self, chunk: Chunk, cx: &mut Context<'_>) {
        let len = chunk.len();
        if len <= APPEND
            && let Some(last) = self.tx.queue.back_mut()
            && last.bytes.len() - last.end >= len
        {
            last.append(chunk.data());
            cx.memory.return_scratch(chunk);
            return;
        }
        if len >= KEEP {
            cx.memory.charge(Toward::Container, &mut cx.account.usage, Class::Large);
            self.tx.queue.push_back(chunk);
        } else {
            let mut copy = cx.memory.take(Toward::Container, &mut cx.account.usage, Class::of(len));
            copy.append(chunk.data());
            self.tx.queue.push_back(copy);
            cx.memory.return_scratch(chunk);
        }
    }

    /// The host has no more: says so to the container, by a FIN, or by an RST once the container has all that came before
    /// the error.
    pub(super) fn end_if_drained(&mut self, cx: &mut Context<'_>) {
        if !self.drained || self.fate != Fate::Alive {
            return;
        }
        if self.error.is_some() {
            if !before(self.tx.una, self.tx.end) {
                self.reset(cx);
            }
            return;
        }
        if self.tx.fin == Fin::No {
            self.tx.fin = Fin::Sent;
            self.first_to_end = !self.rx.ended;
            let seq = self.tx.nxt;
            self.tx.nxt = seq.wrapping_add(1);
            let header = self.header(seq, tcp::ACK | tcp::FIN, cx);
            build::send_bare(cx.lower, self.key.network, &header);
            self.tx.alarm.get_or_insert(cx.now + self.tx.timeout(cx.config.rto_max));
        }
    }

    /// Sends again what is taken for lost, as far as the window allows.
    fn retransmit(&mut self, cx: &mut Context<'_>) {
        while let Some(r) = self.tx.recovery {
            let tx = &self.tx;
            let until = earlier(tx.lost_until(&r), tx.una.wrapping_add(tx.wnd.max(1)));
            let Some((from, to)) = tx.sacked.gap(later(r.next, tx.una), until) else { return };
            let len = distance(from, to).min(tx.frame_limit(self.headers()));
            let pipe = tx.pipe();
            if !r.force && pipe > 0 && pipe + len > tx.cwnd {
                return;
            }
            let sent = self.send_again(from, len, cx);
            if sent == 0 {
                return;
            }
            if let Some(r) = &mut self.tx.recovery {
                r.next = from.wrapping_add(sent);
                r.force = false;
            }
        }
    }

    /// Sends at most `len` bytes from `from` on again, as many as one chunk has; how many, with the FIN.
    fn send_again(&mut self, from: u32, len: u32, cx: &mut Context<'_>) -> u32 {
        self.tx.retransmits += 1;
        self.tx.timed = None;
        cx.stats.retransmits += 1;
        self.tx.alarm = Some(cx.now + self.tx.timeout(cx.config.rto_max));
        self.tx.timeout_at = None;
        if from == self.tx.end {
            if self.tx.fin != Fin::Sent {
                return 0;
            }
            let header = self.header(from, tcp::ACK | tcp::FIN, cx);
            build::send_bare(cx.lower, self.key.network, &header);
            return 1;
        }
        let mut header = self.header(from, tcp::ACK | tcp::PSH, cx);
        let urgent = self.tx.urgent;
        let mut skip = distance(self.tx.una, from) as usize;
        for chunk in &mut self.tx.queue {
            if skip >= chunk.len() {
                skip -= chunk.len();
                continue;
            }
            let len = (len as usize).min(chunk.len() - skip);
            let at = chunk.start + skip;
            header.urgent = urgent_pointer(urgent, from, len as u32); // at most 64 KiB
            build::send(cx.lower, self.key.network, &header, &mut chunk.bytes, at, len, skip);
            return len as u32; // at most 64 KiB
        }
        debug_assert!(false, "everything in flight is in the queue");
        0
    }

    /// The alarm of an open flow: nothing was acknowledged in time, or a closed window has to be asked about.
    pub(super) fn alarm(&mut self, cx: &mut Context<'_>) {
        if let Some(timeout) = self.tx.timeout_at.take() {
            self.probe_tail(cx);
            self.tx.alarm = Some(timeout);
            return;
        }
        self.tx.retries += 1;
        if self.tx.retries > cx.config.retries {
            cx.stats.timeouts += 1;
            self.error.get_or_insert(Failure::TimedOut);
            self.reset(cx);
            return;
        }
        self.tx.back_off();
        if self.error.is_some() && self.tx.wnd == 0 && self.tx.backoff > PATIENCE {
            self.reset(cx);
            return;
        }
        self.tx.alarm = Some(cx.now + self.tx.timeout(cx.config.rto_max));
        if self.tx.flight() == 0 {
            let room = self.tx.room(u32::MAX);
            if room == 0 || self.forward(room, cx) == 0 && !self.drained {
                self.probe(cx);
            }
            self.end_if_drained(cx);
            return;
        }
        if self.tx.wnd == 0 {
            self.probe(cx);
            return;
        }
        let limit = self.headers();
        let tx = &mut self.tx;
        if tx.recovery.is_none_or(|r| r.kind != Lost::All) {
            tx.halve();
        }
        // One super-frame; and what the container once selectively acknowledged it may have thrown away (RFC 2018 8).
        tx.cwnd = tx.frame_limit(limit).min(tx.ssthresh).max(u32::from(tx.mss));
        tx.sacked.clear();
        tx.duplicates = 0;
        tx.recovery = Some(Recovery { kind: Lost::All, until: tx.nxt, next: tx.una, force: true });
        tx.probe_end = None;
        cx.stats.losses += 1;
        self.retransmit(cx);
    }

    /// Sends the last packet again: what the container has of the rest is told by its answer.
    fn probe_tail(&mut self, cx: &mut Context<'_>) {
        let tx = &self.tx;
        let (from, len) = match tx.queue.back() {
            Some(last) if tx.fin == Fin::No => {
                let len = (last.len() as u32).min(u32::from(tx.mss)); // a chunk has at most 64 KiB
                (tx.end.wrapping_sub(len), len)
            }
            _ => (tx.end, 1),
        };
        self.send_again(from, len, cx);
        self.tx.probe_end = Some(self.tx.nxt);
    }

    /// A segment that every TCP answers with an acknowledgement and its window.
    pub(super) fn probe(&mut self, cx: &mut Context<'_>) {
        let header = self.header(self.tx.una.wrapping_sub(1), tcp::ACK, cx);
        build::send_bare(cx.lower, self.key.network, &header);
    }

    /// The path to the container takes packets of at most `mtu` bytes: what is in flight is cut anew.
    pub(super) fn path_mtu(&mut self, mtu: usize, cx: &mut Context<'_>) {
        let is_v4 = self.key.inside.addr.is_v4();
        // Linux `ip_rt_min_pmtu`, and RFC 8200 5: nobody may make us send crumbs.
        let mtu = mtu.max(if is_v4 { 552 } else { 1280 });
        let old = self.tx.mss;
        self.tx.set_mss(old + self.option_len(), mtu, is_v4, self.option_len());
        if self.tx.mss < old && self.tx.flight() > 0 && self.phase == Phase::Open {
            self.tx.sacked.clear();
            self.tx.recovery = Some(Recovery { kind: Lost::All, until: self.tx.nxt, next: self.tx.una, force: true });
            self.retransmit(cx);
        }
    }

    /// Gives back everything that is stored for the container.
    pub(super) fn drop_queue(&mut self, cx: &mut Context<'_>) {
        for chunk in self.tx.queue.drain(..) {
            cx.memory.give(Toward::Container, &mut cx.account.usage, chunk);
        }
    }

    /// Ends the flow on both sides by RST.
    pub(super) fn reset(&mut self, cx: &mut Context<'_>) {
        self.end(Close::Reset, cx);
    }

    /// The container is gone. What it had said to the end, the host delivers: as it does for any process that ended.
    pub(super) fn leave(&mut self, cx: &mut Context<'_>) {
        self.end(if self.rx.finished { Close::Orderly } else { Close::Reset }, cx);
    }

    fn end(&mut self, how: Close, cx: &mut Context<'_>) {
        if self.fate != Fate::Alive {
            return;
        }
        let (seq, ack, flags) = match self.phase {
            Phase::Connecting => (0, self.rx.nxt, tcp::RST | tcp::ACK),
            Phase::SynSent => (self.tx.nxt, 0, tcp::RST),
            Phase::SynReceived | Phase::Open => (self.tx.nxt, self.rx.nxt, tcp::RST | tcp::ACK),
        };
        let header = Header { seq, ack, flags, window: 0, ..self.header(seq, flags, cx) };
        build::send_bare(cx.lower, self.key.network, &header);
        self.close_socket(how, cx);
        self.fate = Fate::Gone;
    }
}

#[cfg(test)]
mod tests {
    use super::super::Config;
    use super::*;

    #[test]
    fn what_is_acknowledged_is_freed_wherever_in_the_number_space() {
        let (mut memory, mut usage) = (Memory::new(&Config::default()), Usage::default());
        // 0: once around.
        for behind in [1, 1000, 0x7fff_ffff, 0x8000_0000, 0x8000_0001, 0xffff_fff0, 0_u32] {
            let mut send = Send::new(0xffff_ff00, 1 << 18, Duration::from_secs(1));
            let first = send.iss.wrapping_add(behind);
            send.una = first;
            let mut chunk = memory.take(Toward::Container, &mut usage, Class::Large);
            chunk.end += 60_000;
            send.queue.push_back(chunk);
            send.end = first.wrapping_add(60_000);
            send.release(first.wrapping_add(20_000), &mut memory, &mut usage);
            send.una = first.wrapping_add(20_000);
            assert_eq!((send.queue.len(), send.bytes), (1, 20_000), "{behind}");
            send.release(send.end, &mut memory, &mut usage);
            assert_eq!((send.queue.len(), send.bytes, memory.used()), (0, 60_000, (0, 0)), "{behind}");
        }
    }
}
