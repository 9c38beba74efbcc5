//! What conntrack believes about a TCP connection that it watches from the middle.
//!
//! # Theory of operation
//! We see segments that may never arrive and miss none that do. Every segment is one of five kinds by its flags; the
//! kind, its direction and the state select the next state ([`next`], the table of `nf_conntrack_proto_tcp.c`). Three
//! things the table cannot say are decided before it is believed ([`Tcp::packet`]):
//!
//! - a SYN in TIME_WAIT or CLOSE begins a new connection under the same tuple;
//! - a segment that the table *ignores* passes and changes nothing, but is remembered: if the other side answers it, we
//!   were the one out of step, and fall in;
//! - a RST ends a connection only if it is the one the peer would believe (RFC 5961), else a challenge ACK follows.
//!
//! Then the segment must fit the windows ([`Tcp::in_window`], after G. van Rooij, "Real Stateful TCP Packet Filtering in
//! IP Filter", as Linux has it):
//!
//! ```text
//! I    seq       <= sender.maxend                    nothing beyond the window that the receiver offered
//! II   seq + len >= sender.end - receiver.maxwin     nothing older than the receiver could still want
//! III  sack      <= receiver.end                     no acknowledgement of what was never sent
//! IV   sack      >= receiver.end - max(66000, maxwin)  none that is absurdly old
//! ```
//!
//! By default we are liberal: I and III are noted by not learning from such a segment, and it passes and moves the state
//! all the same. A NAT that refuses it would leak or stall the connection (X03, Q02). A RST outside the window passes too,
//! but changes nothing (Linux, when liberal, cuts the timer to that of CLOSE).
//!
//! A frame of 64 KiB that the kernel will segment later is one segment here; all arithmetic is modulo 2^32.

use super::segment::{ACK, Kind, RST, SYN, Segment, after, before};
use super::timeouts::Class;
use super::{Direction, Invalid};

/// The states of `nf_conntrack_proto_tcp.c`, in its order.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug, Default)]
#[repr(u8)]
pub enum State {
    /// No segment yet.
    #[default]
    None,
    /// SYN seen.
    SynSent,
    /// SYN-ACK seen.
    SynRecv,
    /// The handshake's ACK seen.
    Established,
    /// A FIN seen.
    FinWait,
    /// A FIN and its ACK seen.
    CloseWait,
    /// Both FINs seen.
    LastAck,
    /// Both FINs and the last ACK seen.
    TimeWait,
    /// A RST seen.
    Close,
    /// Simultaneous open: SYN seen both ways.
    SynSent2,
}

impl State {
    /// How many states there are.
    pub const COUNT: usize = 10;

    /// The name that conntrack-tools print.
    pub fn name(self) -> &'static str {
        match self {
            State::None => "NONE",
            State::SynSent => "SYN_SENT",
            State::SynRecv => "SYN_RECV",
            State::Established => "ESTABLISHED",
            State::FinWait => "FIN_WAIT",
            State::CloseWait => "CLOSE_WAIT",
            State::LastAck => "LAST_ACK",
            State::TimeWait => "TIME_WAIT",
            State::Close => "CLOSE",
            State::SynSent2 => "SYN_SENT2",
        }
    }

    /// Is the connection on its way out, so that it may be evicted (`tcp_can_early_drop`, X13)?
    #[inline]
    pub fn is_closing(self) -> bool {
        matches!(self, State::FinWait | State::CloseWait | State::LastAck | State::TimeWait | State::Close)
    }
}

/// A cell of the transition table.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Next {
    To(State),
    /// IG: passes, changes nothing.
    Ignore,
    /// IV.
    Invalid,
}

const SS: Next = Next::To(State::SynSent);
const SR: Next = Next::To(State::SynRecv);
const ES: Next = Next::To(State::Established);
const FW: Next = Next::To(State::FinWait);
const CW: Next = Next::To(State::CloseWait);
const LA: Next = Next::To(State::LastAck);
const TW: Next = Next::To(State::TimeWait);
const CL: Next = Next::To(State::Close);
const S2: Next = Next::To(State::SynSent2);
const IG: Next = Next::Ignore;
const IV: Next = Next::Invalid;

/// `tcp_conntracks` of Linux: by direction, kind and state.
#[rustfmt::skip]
const TABLE: [[[Next; State::COUNT]; 5]; 2] = [
    // NO  SS  SR  ES  FW  CW  LA  TW  CL  S2     original direction
    [
        [SS, SS, IG, IG, IG, IG, IG, SS, SS, S2], // SYN
        [IV, IV, SR, IV, IV, IV, IV, IV, IV, SR], // SYN-ACK
        [IV, IV, FW, FW, LA, LA, LA, TW, CL, IV], // FIN
        [ES, IV, ES, ES, CW, CW, TW, TW, CL, IV], // ACK
        [IV, CL, CL, CL, CL, CL, CL, CL, CL, CL], // RST
    ],
    // reply direction
    [
        [IV, S2, IV, IV, IV, IV, IV, SS, IV, S2], // SYN
        [IV, SR, IG, IG, IG, IG, IG, IG, IG, SR], // SYN-ACK
        [IV, IV, FW, FW, LA, LA, LA, TW, CL, IV], // FIN
        [IV, IG, SR, ES, CW, CW, TW, TW, CL, IG], // ACK
        [IV, CL, CL, CL, CL, CL, CL, CL, CL, CL], // RST
    ],
];

#[inline]
pub(super) fn next(dir: Direction, kind: Kind, state: State) -> Next {
    match TABLE[dir as usize].get(kind as usize) {
        Some(row) => row[state as usize],
        None => Next::Invalid,
    }
}

/// `IP_CT_TCP_FLAG_*`: what one side has shown.
mod seen {
    pub const WINDOW_SCALE: u8 = 0x01;
    pub const SACK_PERM: u8 = 0x02;
    /// Sent the FIN that began the close.
    pub const CLOSE_INIT: u8 = 0x04;
    /// Picked up in mid-stream: its windows are guesses.
    pub const BE_LIBERAL: u8 = 0x08;
    pub const UNACKNOWLEDGED: u8 = 0x10;
    pub const MAXACK_SET: u8 = 0x20;
    /// A SYN passed in LAST_ACK: the ACK that follows may be a challenge, not the last.
    pub const EXPECT_CHALLENGE: u8 = 0x40;
    pub const SIMULTANEOUS_OPEN: u8 = 0x80;
}

/// What we know of one side; the names are those of the theory above.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
struct Peer {
    end: u32,
    maxend: u32,
    /// 0: nothing seen from this side yet.
    maxwin: u32,
    maxack: u32,
}

/// A connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub(super) struct Tcp {
    peers: [Peer; 2],
    last_seq: u32,
    last_ack: u32,
    last_end: u32,
    last_win: u16,
    scale: [u8; 2],
    flags: [u8; 2],
    last_wscale: u8,
    last_flags: u8,
    last_kind: Kind,
    last_dir: Direction,
    retrans: u8,
    pub(super) state: State,
}

const _: () = assert!(size_of::<Tcp>() == 56);

/// What follows from a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Outcome {
    /// Passes; the timer begins anew on this class. `assured`: the connection is now proven.
    Accept { class: Class, assured: bool },
    /// Passes; the timer runs on.
    Ignore,
    /// Passes, and was the end of the flow.
    Last,
    /// The connection is over and this segment begins another.
    Reopen,
    /// Refused.
    Invalid(Invalid),
    /// Refused, but it and the one before it tell of a close that we cannot verify: wait no longer than for
    /// acknowledgement (`nf_tcp_handle_invalid`, X10).
    Shrink(Invalid),
}

/// What the machine is told of its surroundings.
pub(super) struct Context<'a> {
    pub(super) liberal: bool,
    pub(super) max_retrans: u8,
    pub(super) seen_reply: bool,
    pub(super) assured: bool,
    /// Microseconds by class.
    pub(super) timeouts: &'a [u64; Class::COUNT],
}

/// Does the segment fit?
enum Fit {
    Yes,
    /// Passes, and nothing is learnt from it but what has been noted already.
    Ignore,
    No,
}

/// Linux' MAXACKWINCONST: what an acknowledgement may lag behind when the window is smaller than that.
const MAX_ACK_WINDOW: u32 = 66_000;

/// Scale and flags that the options of a SYN announce.
fn options(segment: &Segment) -> (u8, u8) {
    let mut flags = 0;
    if segment.wscale.is_some() {
        flags |= seen::WINDOW_SCALE;
    }
    if segment.sack_permitted {
        flags |= seen::SACK_PERM;
    }
    (segment.wscale.unwrap_or(0), flags)
}

impl Tcp {
    /// A connection before its first segment, which then goes through [`Tcp::packet`].
    pub(super) fn begin(segment: &Segment) -> Tcp {
        let mut tcp = Tcp::default();
        let end = segment.end();
        let window = u32::from(segment.window).max(1);
        let (maxend, flags) = if segment.kind() == Kind::Syn {
            (end, options(segment))
        } else {
            // In mid-stream (X06): assume SACK, and be liberal as no window scale is known.
            let guess = seen::SACK_PERM | seen::BE_LIBERAL;
            tcp.flags[1] = guess;
            (end.wrapping_add(window), (0, guess))
        };
        tcp.peers[0] = Peer { end, maxend, maxwin: window, maxack: 0 };
        (tcp.scale[0], tcp.flags[0]) = flags;
        tcp
    }

    /// One segment. `nf_conntrack_tcp_packet` of Linux 6.18, after the check of flags.
    #[inline]
    pub(super) fn packet(&mut self, dir: Direction, segment: &Segment, cx: &Context<'_>) -> Outcome {
        let kind = segment.kind();
        let (me, peer) = (dir as usize, dir.opposite() as usize);
        let mut old = self.state;
        let mut new = match next(dir, kind, old) {
            Next::To(state) => state,
            Next::Invalid => return Outcome::Invalid(Invalid::State),
            Next::Ignore if self.answers_ignored_syn(dir, kind, segment) => {
                self.resync(dir);
                old = State::SynSent;
                State::SynRecv
            }
            Next::Ignore => {
                self.remember(dir, kind, segment);
                return Outcome::Ignore;
            }
        };
        let mut check_window = true;
        match new {
            // RFC 1122 4.2.2.13 lets a new SYN reopen a connection in TIME-WAIT; aborted ones come back too (X07).
            State::SynSent if old >= State::TimeWait => {
                let closed = (self.flags[0] | self.flags[1]) & seen::CLOSE_INIT != 0;
                let aborted = self.last_dir == dir && self.last_kind == Kind::Rst;
                if closed || aborted {
                    return Outcome::Reopen;
                }
                self.remember(dir, kind, segment);
                return Outcome::Ignore;
            }
            State::TimeWait
                if old == State::LastAck
                    && kind == Kind::Ack
                    && self.last_dir != dir
                    && self.last_kind == Kind::Syn
                    && self.last_flags & seen::EXPECT_CHALLENGE != 0 =>
            {
                // RFC 5961 4.2: the answer to the SYN we let through, not to the FIN (X05).
                self.last_flags &= !seen::EXPECT_CHALLENGE;
                return Outcome::Ignore;
            }
            State::SynSent2 => self.last_flags |= seen::SIMULTANEOUS_OPEN,
            State::SynRecv
                if dir == Direction::Reply && kind == Kind::Ack && self.last_flags & seen::SIMULTANEOUS_OPEN != 0 =>
            {
                new = State::Established;
            }
            State::Close if kind == Kind::Rst => match self.reset(dir, segment, cx) {
                Reset::Believed => check_window = false,
                Reset::Checked => {}
                Reset::Inexact => new = old,
                Reset::InexactBelieved => {
                    new = old;
                    check_window = false;
                }
                Reset::Stale => return Outcome::Invalid(Invalid::Reset),
            },
            _ => {}
        }
        if check_window {
            match self.in_window(dir, kind, segment, cx.liberal) {
                Fit::Yes => {}
                Fit::Ignore => return Outcome::Ignore,
                Fit::No => return self.misfit(dir, kind),
            }
        }

        self.last_kind = kind;
        self.last_dir = dir;
        self.state = new;
        if old != new && new == State::FinWait {
            self.flags[me] |= seen::CLOSE_INIT;
        }

        let of_state = Class::of(new);
        let longer_than = |class: Class| cx.timeouts[of_state as usize] > cx.timeouts[class as usize];
        let mut class = if self.retrans >= cx.max_retrans && longer_than(Class::MaxRetrans) {
            Class::MaxRetrans
        } else if kind == Kind::Rst {
            Class::Close
        } else if (self.flags[me] | self.flags[peer]) & seen::UNACKNOWLEDGED != 0 && longer_than(Class::Unacknowledged)
        {
            Class::Unacknowledged
        } else if self.last_win == 0 && longer_than(Class::MaxRetrans) {
            Class::MaxRetrans
        } else {
            of_state
        };

        let mut assured = false;
        if !cx.seen_reply {
            if kind == Kind::Rst {
                return Outcome::Last; // the only answer was a refusal (X09)
            }
            if kind == Kind::Syn && old == State::SynSent {
                return Outcome::Ignore; // X08: or reuse of the port would keep a dead entry alive for ever
            }
            if new == State::Established && cx.timeouts[class as usize] > cx.timeouts[Class::Unacknowledged as usize] {
                class = Class::Unacknowledged; // picked up in mid-stream, not answered yet (X06)
            }
        } else if matches!(old, State::SynRecv | State::Established) && new == State::Established {
            assured = true;
        }
        Outcome::Accept { class, assured }
    }

    /// Does this SYN-ACK answer a SYN that we ignored? Then both ends agree, and only we did not.
    fn answers_ignored_syn(&self, dir: Direction, kind: Kind, segment: &Segment) -> bool {
        kind == Kind::SynAck && self.last_kind == Kind::Syn && self.last_dir != dir && segment.ack == self.last_end
    }

    /// Begins anew with the SYN that was ignored and remembered; the SYN-ACK against `dir` is yet to be looked at.
    fn resync(&mut self, dir: Direction) {
        let (me, peer) = (dir as usize, dir.opposite() as usize);
        self.last_flags &= !seen::EXPECT_CHALLENGE;
        self.peers[peer] = Peer {
            end: self.last_end,
            maxend: self.last_end,
            maxwin: u32::from(self.last_win).max(1),
            maxack: self.peers[peer].maxack,
        };
        (self.scale[peer], self.flags[peer]) = (self.last_wscale, self.last_flags);
        self.peers[me] = Peer::default();
        (self.scale[me], self.flags[me]) = (0, 0);
    }

    /// A segment that passes without being believed: the answer to it will show who was right.
    fn remember(&mut self, dir: Direction, kind: Kind, segment: &Segment) {
        self.last_kind = kind;
        self.last_dir = dir;
        self.last_seq = segment.seq;
        self.last_end = segment.end();
        self.last_win = segment.window;
        if kind == Kind::Syn && dir == Direction::Original {
            (self.last_wscale, self.last_flags) = options(segment);
            if self.state == State::LastAck {
                self.last_flags |= seen::EXPECT_CHALLENGE;
            }
        }
        if self.state == State::SynSent && kind == Kind::Ack && dir == Direction::Reply {
            self.last_ack = segment.ack; // possibly a challenge to the SYN: a RST with this seq will follow (X05)
        }
    }

    /// Is this the RST that the peer would believe (X04)?
    fn reset(&self, dir: Direction, segment: &Segment, cx: &Context<'_>) -> Reset {
        // On the way out anyhow, and the tuple may belong to a new connection by now: nothing we know is worth a check.
        if self.state.is_closing() {
            return Reset::Believed;
        }
        let peer = dir.opposite() as usize;
        let established = self.state == State::Established && cx.assured;
        let mut inexact = false;
        // A SYN that was let through may have made maxack a thing of the past.
        if self.flags[peer] & seen::MAXACK_SET != 0 && self.last_kind != Kind::Syn {
            let maxack = self.peers[peer].maxack;
            if segment.seq == 0 && !established {
                return Reset::Checked; // the answer to a SYN that we let through
            }
            if before(segment.seq, maxack) {
                return Reset::Stale;
            }
            if !established || segment.seq == maxack {
                return Reset::Checked;
            }
            if self.last_kind == Kind::Ack && self.last_dir == dir && segment.seq == self.last_end {
                return Reset::Checked; // right behind its own data, which is not acknowledged yet
            }
            inexact = true; // a challenge ACK may follow
        }
        // The answer to a SYN or ACK that we let through without believing it.
        let answers_ignored = ((cx.seen_reply && self.last_kind == Kind::Syn)
            || (!cx.assured && self.last_kind == Kind::Ack))
            && segment.ack == self.last_end;
        // The answer to a challenge ACK that we let through: the old connection of the peer dies, and so does ours.
        let answers_challenge = self.state == State::SynSent
            && self.last_kind == Kind::Ack
            && self.last_dir == Direction::Reply
            && segment.seq == self.last_ack;
        match (inexact, answers_ignored || answers_challenge) {
            (false, false) => Reset::Checked,
            (false, true) => Reset::Believed,
            (true, false) => Reset::Inexact,
            (true, true) => Reset::InexactBelieved,
        }
    }

    /// A SYN or SYN-ACK tells where its sender begins.
    fn init_sender(&mut self, dir: Direction, segment: &Segment) {
        let (me, peer) = (dir as usize, dir.opposite() as usize);
        let end = segment.end();
        self.peers[me].end = end;
        self.peers[me].maxend = end;
        self.peers[me].maxwin = u32::from(segment.window).max(1);
        let (scale, flags) = options(segment);
        self.scale[me] = scale;
        self.flags[me] = self.flags[me] & seen::BE_LIBERAL | flags;
        // RFC 7323 2.2: both sides must offer it for either to use it.
        if dir == Direction::Reply && self.flags[me] & self.flags[peer] & seen::WINDOW_SCALE == 0 {
            self.scale = [0, 0];
        }
    }

    /// `tcp_in_window` of Linux 6.18. Learns from a segment that fits.
    #[inline]
    fn in_window(&mut self, dir: Direction, kind: Kind, segment: &Segment, liberal: bool) -> Fit {
        let (me, peer) = (dir as usize, dir.opposite() as usize);
        let mut seq = segment.seq;
        let mut ack = segment.ack;
        let mut end = segment.end();
        let mut sack = if self.flags[peer] & seen::SACK_PERM != 0 && segment.has(ACK) { segment.sack } else { ack };
        let raw_window = u32::from(segment.window);

        if self.peers[me].maxwin == 0 {
            if segment.has(SYN) {
                self.init_sender(dir, segment);
                if !segment.has(ACK) {
                    return Fit::Yes; // simultaneous open
                }
            } else {
                // In mid-stream: the segment is all there is to go by.
                let window = (raw_window << self.scale[me]).max(1);
                self.peers[me].end = end;
                self.peers[me].maxwin = window;
                self.peers[me].maxend = end.wrapping_add(window);
                let receiver = &mut self.peers[peer];
                if receiver.maxwin == 0 {
                    (receiver.end, receiver.maxend) = (sack, sack);
                } else if sack == receiver.end.wrapping_add(1) {
                    receiver.end = sack; // the answer to a keepalive
                }
            }
        } else if segment.has(SYN)
            && after(end, self.peers[me].end)
            && matches!(self.state, State::SynSent | State::SynRecv)
        {
            // RFC 793: "if a TCP is reinitialized ... then it need not wait at all; it must only be sure to use
            // sequence numbers larger than those recently used."
            self.init_sender(dir, segment);
            if dir == Direction::Reply && !segment.has(ACK) {
                return Fit::Yes;
            }
        }

        // Without an ACK, or with the zero ACK of a sloppy RST, the acknowledgement counts as right.
        if !segment.has(ACK) || (segment.has(RST) && ack == 0) {
            ack = self.peers[peer].end;
            sack = ack;
        }
        if segment.has(RST) && seq == 0 && self.state == State::SynSent {
            seq = self.peers[me].end; // the RST that answers a SYN
            end = seq;
        }

        let (sender, receiver) = (self.peers[me], self.peers[peer]);
        let ack_window = sender.maxwin.max(MAX_ACK_WINDOW);
        let recent_ack = after(sack, receiver.end.wrapping_sub(ack_window).wrapping_sub(1));
        let known_ack = before(sack, receiver.end.wrapping_add(1));
        let recent_seq = receiver.maxwin == 0 || after(end, sender.end.wrapping_sub(receiver.maxwin).wrapping_sub(1));
        let misfit = if !liberal && self.flags[me] & seen::BE_LIBERAL == 0 {
            Fit::No
        } else if kind == Kind::Rst {
            // Its receiver can judge it, we cannot: believing it would let a stranger cut the timer of a silent flow.
            Fit::Ignore
        } else {
            Fit::Yes
        };
        // I
        if !before(seq, sender.maxend.wrapping_add(1)) {
            let overshot = end.wrapping_sub(sender.maxend).wrapping_add(1);
            if receiver.maxwin != 0 && recent_seq && recent_ack && known_ack && overshot <= receiver.maxwin {
                // More than was offered, by a little: some stacks do. Its acknowledgement must find us prepared.
                self.peers[me].end = end;
                self.flags[me] |= seen::UNACKNOWLEDGED;
                return Fit::Ignore;
            }
            return misfit;
        }
        // III
        if !known_ack {
            return misfit;
        }
        // II and IV
        if !recent_seq || !recent_ack {
            return Fit::Ignore;
        }

        let window = if segment.has(SYN) { raw_window } else { raw_window << self.scale[me] };
        let sender = &mut self.peers[me];
        sender.maxwin = sender.maxwin.max(window.wrapping_add(sack.wrapping_sub(ack)));
        let overrun = end.wrapping_sub(sender.maxend);
        let overran = after(end, sender.maxend);
        if after(end, sender.end) {
            sender.end = end;
            self.flags[me] |= seen::UNACKNOWLEDGED;
        }
        if segment.has(ACK) && (self.flags[me] & seen::MAXACK_SET == 0 || after(ack, sender.maxack)) {
            sender.maxack = ack;
            self.flags[me] |= seen::MAXACK_SET;
        }
        let receiver = &mut self.peers[peer];
        if receiver.maxwin != 0 && overran {
            receiver.maxwin = receiver.maxwin.saturating_add(overrun);
        }
        let offered = sack.wrapping_add(window);
        if after(offered, receiver.maxend.wrapping_sub(1)) {
            receiver.maxend = offered.wrapping_add(u32::from(window == 0));
        }
        if ack == receiver.end {
            self.flags[peer] &= !seen::UNACKNOWLEDGED;
        }

        if kind == Kind::Ack {
            let same = self.last_dir == dir
                && self.last_seq == seq
                && self.last_ack == ack
                && self.last_end == end
                && self.last_win == segment.window;
            if same {
                self.retrans = self.retrans.saturating_add(1);
            } else {
                self.last_dir = dir;
                self.last_seq = seq;
                self.last_ack = ack;
                self.last_end = end;
                self.last_win = segment.window;
                self.retrans = 0;
            }
        }
        Fit::Yes
    }

    /// A segment outside the window, in the strict mode. A FIN or RST each way tells of a close that we cannot follow.
    fn misfit(&mut self, dir: Direction, kind: Kind) -> Outcome {
        let tells_of_close = |kind| matches!(kind, Kind::Fin | Kind::Rst);
        if !tells_of_close(kind) {
            return Outcome::Invalid(Invalid::Window);
        }
        if self.last_dir != dir && tells_of_close(self.last_kind) {
            return Outcome::Shrink(Invalid::Window);
        }
        self.last_kind = kind;
        self.last_dir = dir;
        Outcome::Invalid(Invalid::Window)
    }
}

/// What a RST is worth.
enum Reset {
    /// Closes, whatever the windows say.
    Believed,
    /// Closes if it is in the window.
    Checked,
    /// In the window but not exact: passes, and the state stays until the challenge ACK is answered.
    Inexact,
    /// Inexact, and yet the answer to something we let through.
    InexactBelieved,
    /// Below what the other side has acknowledged: nobody believes it.
    Stale,
}

#[cfg(test)]
mod tests;
