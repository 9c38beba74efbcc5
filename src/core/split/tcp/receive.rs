//! From the container to the host: what came in order goes to the socket, what it does not take is stored.
//!
//! # Theory of operation
//! `nxt` is the end of everything stored in order, in the socket or here, and is what is acknowledged. The window is
//! what is left of `cap`; its right edge `edge` never moves left, so when the host is slow the edge stands still and
//! acknowledgements run into it.
//!
//! ```text
//!         taken by the socket | backlog |   may come: window   |
//!  ---------------------------|---------|----------------------|-----
//!                                      nxt                    edge
//! ```
//!
//! What comes out of order is kept in pieces until the hole is filled. It lies within the window, so it needs no
//! account besides that of the pool; when that is full it is the first to be refused, because the container sends it
//! again. Data in order that finds no memory is not acknowledged either.

use std::collections::VecDeque;

use super::flow::{Context, Flow, Phase};
use super::pool::{Chunk, Class, HEAD, Toward};
use super::ranges::MAX_RANGES;
use super::segment::{Segment, URG, after, before, distance};
use crate::core::counters::DropReason;
use crate::core::socket::{Close, Failure};
use crate::wire::ip::tcp;

/// Pieces kept out of order: several may make one range.
const MAX_PIECES: usize = 128;

/// How far rounding to the window's scale may let the right edge creep beyond the cap, bytes.
const MAX_CREEP: u32 = 65_536;

/// The receiving half of a flow.
#[derive(Debug, Default)]
pub(super) struct Receive {
    /// The container's initial sequence number.
    pub irs: u32,
    /// The next byte that is expected.
    pub nxt: u32,
    /// The right edge of the window as the container knows it.
    pub edge: u32,
    /// What may be stored for the flow, bytes.
    pub cap: u32,
    /// The window as it was last told, bytes.
    offered: u32,
    /// Our window scale.
    pub scale: u8,
    /// Stored in order, not yet taken by the socket.
    backlog: VecDeque<Chunk>,
    /// Bytes in `backlog`.
    pub stored: u32,
    /// Stored out of order, disjoint, in order.
    pieces: Vec<Piece>,
    /// Where the container's data ends, once it said so.
    fin: Option<u32>,
    /// Its FIN came in order.
    pub ended: bool,
    /// The socket was told of the end.
    pub finished: bool,
    /// Bytes that came in order.
    pub bytes: u64,
    /// Bytes that came before their turn and were kept.
    pub early: u64,
    /// Where the last piece out of order was put: the first SACK block is about it (RFC 2018 4).
    newest: u32,
}

#[derive(Debug)]
struct Piece {
    seq: u32,
    chunk: Chunk,
}

impl Piece {
    fn end(&self) -> u32 {
        self.seq.wrapping_add(self.chunk.len() as u32) // a chunk is at most 64 KiB
    }
}

impl Receive {
    /// What the container may still send, bytes.
    pub fn window(&self) -> u32 {
        distance(self.nxt, self.edge)
    }

    /// The widest window that can be told, bytes: a cap beyond it would seem to have opened for ever.
    pub fn tellable(&self) -> u32 {
        u32::from(u16::MAX) << self.scale
    }

    /// Is something stored out of order?
    pub fn has_holes(&self) -> bool {
        !self.pieces.is_empty()
    }

    /// The window field of the next segment, and the edge that goes with it. `mss`: the container's.
    pub fn advertise(&mut self, mss: u32) -> u16 {
        let open = self.cap.saturating_sub(self.stored);
        let held = self.window();
        // The edge advances by steps worth a segment (RFC 9293 3.8.6.2.2).
        let grows = open > held && (open - held >= (self.cap / 2).min(mss) || held == 0 && self.stored == 0);
        let mut field = if grows { open >> self.scale } else { 0 };
        if field << self.scale < held {
            // Rounded up: to round down would move the edge left. What that lets in beyond the cap is bounded.
            field = held.div_ceil(1 << self.scale);
            if self.stored + (field << self.scale) > self.cap + MAX_CREEP {
                field = held >> self.scale;
            }
        }
        let field = field.min(u32::from(u16::MAX));
        self.offered = field << self.scale;
        self.edge = self.nxt.wrapping_add(self.offered);
        field as u16 // at most 65,535
    }

    /// The SACK blocks to send, the newest first; at most `max`.
    pub fn sack_blocks(&self, max: usize, out: &mut [(u32, u32); 4]) -> usize {
        let mut count = 0;
        let mut at = 0;
        let mut first = None;
        while let Some(piece) = self.pieces.get(at) {
            let (left, mut right) = (piece.seq, piece.end());
            at += 1;
            while let Some(next) = self.pieces.get(at)
                && next.seq == right
            {
                right = next.end();
                at += 1;
            }
            if !after(left, self.newest) && before(self.newest, right) {
                first = Some((left, right));
            } else if count < max.min(out.len()) {
                out[count] = (left, right);
                count += 1;
            }
        }
        if let Some(block) = first {
            out.copy_within(0..3, 1);
            out[0] = block;
            count = (count + 1).min(max).min(out.len());
        }
        count
    }

    fn ranges(&self) -> usize {
        let joined = self.pieces.windows(2).filter(|w| w[0].end() == w[1].seq).count();
        self.pieces.len() - joined
    }
}

impl Flow {
    /// Data and end of a segment that was found acceptable.
    pub(super) fn receive(&mut self, s: &Segment<'_>, cx: &mut Context<'_>) -> Result<(), DropReason> {
        if self.error.is_some() || self.rx.ended {
            // Nobody takes it: not acknowledged. After its FIN the container has nothing new to say.
            if s.len() > 0 && self.error.is_none() {
                self.ack_pending = true;
            }
            return Ok(());
        }
        let end = s.seq.wrapping_add(s.payload.len() as u32); // within a packet
        let mut result = Ok(());
        if !s.payload.is_empty() {
            self.ack_pending = true;
            let skip = distance(s.seq, self.rx.nxt) as usize;
            let beyond = distance(self.rx.edge, end) as usize;
            let fits = s.payload.len().saturating_sub(beyond);
            if let Some(data) = s.payload.get(skip..fits).filter(|d| !d.is_empty()) {
                if before(self.rx.nxt, s.seq) {
                    self.ack_now = true;
                    result = self.store_piece(s.seq, data, cx);
                } else {
                    let urgent = (s.has(URG) && s.urgent > 0).then(|| usize::from(s.urgent) - 1);
                    let urgent = urgent.and_then(|at| at.checked_sub(skip)).filter(|at| *at < data.len());
                    let filled = self.rx.has_holes();
                    result = self.take(data, urgent, cx);
                    if filled {
                        self.fill_hole(cx);
                        self.ack_now = true;
                    }
                }
            }
        }
        if s.has(tcp::FIN) && !after(end, self.rx.edge) {
            self.rx.fin = Some(end);
            self.ack_pending = true;
        }
        if self.rx.fin == Some(self.rx.nxt) && self.error.is_none() {
            self.rx.ended = true;
            self.rx.nxt = self.rx.nxt.wrapping_add(1);
            self.ack_pending = true;
            if before(self.rx.edge, self.rx.nxt) {
                self.rx.edge = self.rx.nxt;
            }
            self.drop_pieces(cx);
            self.finish_if_drained(cx);
        }
        result
    }

    /// Data in order: to the socket, or stored, and acknowledged as far as that went.
    fn take(&mut self, data: &[u8], urgent: Option<usize>, cx: &mut Context<'_>) -> Result<(), DropReason> {
        let mut taken = 0;
        if let Some(at) = urgent {
            taken = self.offer(&data[..at], cx);
            if taken == at
                && let (Some(id), true) = (self.socket, self.writable && self.error.is_none())
            {
                match cx.lower.sockets().send_urgent(id, data[at]) {
                    Ok(()) => taken += 1,
                    Err(Failure::WouldBlock) => self.writable = false,
                    Err(why) => self.fail(why),
                }
            }
        }
        if urgent.is_none_or(|at| taken > at) {
            taken += self.offer(&data[taken..], cx);
        }
        let kept = if self.error.is_none() { self.store(&data[taken..], cx) } else { 0 };
        self.advance(taken + kept);
        if self.error.is_none() && taken + kept < data.len() { Err(DropReason::SplitMemory) } else { Ok(()) }
    }

    fn advance(&mut self, len: usize) {
        self.rx.nxt = self.rx.nxt.wrapping_add(len as u32); // within a packet
        self.rx.bytes += len as u64;
    }

    /// Gives data to the socket unless something waits before it; how much it took.
    fn offer(&mut self, data: &[u8], cx: &mut Context<'_>) -> usize {
        let (Some(id), true) = (self.socket, self.rx.backlog.is_empty()) else { return 0 };
        let mut taken = 0;
        while taken < data.len() && self.writable && self.error.is_none() {
            match cx.lower.sockets().send(id, &data[taken..]) {
                Ok(len) => taken += len.min(data.len() - taken),
                Err(Failure::WouldBlock) => self.writable = false,
                Err(why) => self.fail(why),
            }
        }
        taken
    }

    /// Appends to the backlog; how much found room.
    fn store(&mut self, data: &[u8], cx: &mut Context<'_>) -> usize {
        let mut kept = match self.rx.backlog.back_mut() {
            Some(last) => last.append(data),
            None => 0,
        };
        while kept < data.len() {
            let class = Class::of(data.len() - kept);
            if !cx.memory.has_room(Toward::Host, &cx.account.usage, class) {
                if self.rx.pieces.is_empty() {
                    break;
                }
                self.drop_pieces(cx); // they will come again
                continue;
            }
            let mut chunk = cx.memory.take(Toward::Host, &mut cx.account.usage, class);
            kept += chunk.append(&data[kept..]);
            self.rx.backlog.push_back(chunk);
        }
        self.rx.stored += kept as u32; // within a packet
        kept
    }

    /// Keeps data that came out of order.
    fn store_piece(&mut self, mut seq: u32, mut data: &[u8], cx: &mut Context<'_>) -> Result<(), DropReason> {
        self.rx.newest = seq;
        let mut at = self.rx.pieces.partition_point(|p| !after(p.end(), seq));
        while !data.is_empty() {
            // What is there already is skipped; then what fits before the next piece is put in.
            let next = self.rx.pieces.get(at).map(|p| (p.seq, p.end()));
            if let Some((left, right)) = next
                && !after(left, seq)
            {
                let skip = (distance(seq, right) as usize).min(data.len());
                (seq, data) = (seq.wrapping_add(skip as u32), &data[skip..]);
                at += 1;
                continue;
            }
            let len = next.map_or(data.len(), |(left, _)| (distance(seq, left) as usize).min(data.len()));
            let (part, rest) = data.split_at(len);
            let mut put = 0;
            if let Some(before) = at.checked_sub(1).and_then(|n| self.rx.pieces.get_mut(n))
                && before.end() == seq
            {
                put = before.chunk.append(part);
            }
            if put < len {
                let class = Class::of(len - put);
                let joins = put > 0 || at.checked_sub(1).is_some_and(|n| self.rx.pieces[n].end() == seq);
                if self.rx.pieces.len() >= MAX_PIECES
                    || !joins && self.rx.ranges() >= MAX_RANGES
                    || !cx.memory.has_room(Toward::Host, &cx.account.usage, class)
                {
                    return Err(DropReason::SplitMemory);
                }
                let mut chunk = cx.memory.take(Toward::Host, &mut cx.account.usage, class);
                chunk.append(&part[put..]);
                self.rx.pieces.insert(at, Piece { seq: seq.wrapping_add(put as u32), chunk });
                at += 1;
            }
            self.rx.early += len as u64;
            (seq, data) = (seq.wrapping_add(len as u32), rest);
        }
        Ok(())
    }

    /// Moves pieces that are in order now.
    fn fill_hole(&mut self, cx: &mut Context<'_>) {
        let mut done = 0;
        while let Some(piece) = self.rx.pieces.get_mut(done)
            && !after(piece.seq, self.rx.nxt)
            && self.error.is_none()
        {
            let mut chunk = std::mem::replace(&mut piece.chunk, Chunk { bytes: Box::default(), start: 0, end: 0 });
            let skip = distance(piece.seq, self.rx.nxt) as usize;
            done += 1;
            chunk.start = (chunk.start + skip).min(chunk.end);
            chunk.start += {
                let taken = self.offer(&chunk.bytes[chunk.start..chunk.end], cx);
                self.advance(taken);
                taken
            };
            if chunk.len() == 0 || self.error.is_some() {
                cx.memory.give(Toward::Host, &mut cx.account.usage, chunk);
            } else {
                self.advance(chunk.len());
                self.rx.stored += chunk.len() as u32; // at most 64 KiB
                self.rx.backlog.push_back(chunk);
            }
        }
        self.rx.pieces.drain(..done);
    }

    /// The socket has room again.
    pub(super) fn drain(&mut self, cx: &mut Context<'_>) {
        let Some(id) = self.socket else { return };
        while self.writable
            && self.error.is_none()
            && let Some(chunk) = self.rx.backlog.front_mut()
        {
            match cx.lower.sockets().send(id, chunk.data()) {
                Ok(len) => {
                    let len = len.min(chunk.len());
                    chunk.start += len;
                    self.rx.stored -= len as u32; // at most 64 KiB
                    if chunk.len() == 0
                        && let Some(chunk) = self.rx.backlog.pop_front()
                    {
                        cx.memory.give(Toward::Host, &mut cx.account.usage, chunk);
                    }
                }
                Err(Failure::WouldBlock) => self.writable = false,
                Err(why) => self.fail(why),
            }
        }
        self.finish_if_drained(cx);
        // A window that has opened by as much as a sender waits for is told at once.
        let open = self.rx.cap.saturating_sub(self.rx.stored);
        if self.phase == Phase::Open && !self.rx.ended && open > self.rx.window() {
            let opened = open - self.rx.window();
            self.ack_pending |= opened >= self.rx.cap / 4 || self.rx.stored == 0 && opened >= u32::from(self.tx.mss);
        }
    }

    /// The container's end is passed on behind its last byte; from then on a close is orderly.
    fn finish_if_drained(&mut self, cx: &mut Context<'_>) {
        if !self.rx.ended || self.rx.finished || !self.rx.backlog.is_empty() || self.error.is_some() {
            return;
        }
        let Some(id) = self.socket else { return };
        match cx.lower.sockets().finish(id) {
            Ok(()) => self.rx.finished = true,
            Err(why) => self.fail(why),
        }
    }

    /// The first error is remembered, and will be told by an RST.
    pub(super) fn fail(&mut self, why: Failure) {
        self.error.get_or_insert(why);
        self.writable = false;
        // What can be read still may be: data that came before the error is the container's.
        self.readable = true;
    }

    /// A cap that proved too small is doubled, while the container's memory is far from used up.
    pub(super) fn grow_window(&mut self, cx: &mut Context<'_>) {
        let rx = &mut self.rx;
        let limit = cx.config.window_max.min(rx.tellable());
        // The container was told nearly all of it, and used half before it could be told anew.
        if rx.stored > 0 || rx.cap >= limit || rx.offered < rx.cap / 4 * 3 || rx.window() > rx.offered / 2 {
            return;
        }
        if cx.memory.is_half_free(&cx.account.usage) {
            rx.cap += rx.cap.min(limit - rx.cap);
        }
    }

    fn drop_pieces(&mut self, cx: &mut Context<'_>) {
        for piece in self.rx.pieces.drain(..) {
            cx.memory.give(Toward::Host, &mut cx.account.usage, piece.chunk);
        }
    }

    /// Gives back everything that is stored for the host.
    pub(super) fn drop_received(&mut self, cx: &mut Context<'_>) {
        self.drop_pieces(cx);
        for chunk in self.rx.backlog.drain(..) {
            cx.memory.give(Toward::Host, &mut cx.account.usage, chunk);
        }
        self.rx.stored = 0;
    }

    /// Ends the host socket, if there is one.
    pub(super) fn close_socket(&mut self, how: Close, cx: &mut Context<'_>) {
        if let Some(id) = self.socket.take() {
            cx.lower.sockets().close(id, how);
            cx.lower.ids().remove(id);
            *cx.freed += 1;
        }
    }
}

const _: () = assert!(HEAD < Class::Small.size());
