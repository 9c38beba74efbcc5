//! Datagrams that containers send in fragments, put together for a host socket.
//!
//! # Theory of operation
//! A socket takes a datagram whole. Fragments are kept until nothing is missing, and then become one packet with the header
//! of the first. Which fragments belong together, and how long they wait, is as in [`crate::core::frag`], whose reader and
//! prices are used.
//!
//! A fragment that is there already, first byte and last, is ignored; one that overlaps others in any other way, or
//! contradicts the datagram's length, ends the datagram "including those not yet received" (RFC 5722), for its 30 s. So
//! nobody can make a datagram that reads differently here and elsewhere.
//!
//! Fragments keep the ECN of their datagram (RFC 3168 5.3): congestion that one has met the whole has met; fragments of
//! which some could be marked and some not are no datagram (Linux `ip_frag_ecn_table`).
//!
//! # Limits
//! [`TOTAL`] bytes, a quarter of it a container; who uses most gives way. A datagram has at most [`MAX_HELD`] fragments.
//!
//! # References
//! RFC 791 3.2, RFC 5722, RFC 3168 5.3; Linux net/ipv4/ip_fragment.c.

use std::collections::BTreeMap;
use std::mem;

use hashbrown::HashMap;

use super::Origin;
use super::udp::account::{Account, Room};
use crate::core::counters::DropReason;
use crate::core::frag::{self, DATAGRAM_PRICE, Extent, GivenUp, HELD_PRICE, Key, MAX_HELD, SHARE, TIMEOUT, TOTAL};
use crate::core::hash::Keyed;
use crate::core::port::PortId;
use crate::core::time::Instant;
use crate::frame::{Frame, HEADROOM, Link};
use crate::wire::ip::ipv4;
use crate::wire::{checksum, put16};

/// The longest packet, bytes.
const MAX_PACKET: usize = 65_535;

/// ECN, the lower two bits of the type of service: congestion was experienced.
const ECN_CE: u8 = 3;

/// A packet that was put together.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Whole(Vec<u8>);

impl Whole {
    /// The packet as a frame without a link header. Its transport checksum is still to be verified.
    pub fn frame(&mut self) -> Option<Frame<'_>> {
        let end = self.0.len();
        Frame::parse(&mut self.0, HEADROOM, end, Link::Ip).ok()
    }
}

/// Owners are part of what a datagram is, so nobody can spoil another's by claiming its addresses.
type Id = (PortId, Key);

/// Deadline, then order of arrival.
type Age = (Instant, u64);

struct Datagram {
    age: Age,
    /// The first fragment's IP header.
    header: Option<Box<[u8]>>,
    /// By their first byte; they do not overlap.
    pieces: BTreeMap<u32, Box<[u8]>>,
    /// Bytes in all pieces.
    have: u32,
    /// Length, once the last fragment has come.
    len: Option<u32>,
    /// One bit for each ECN codepoint seen.
    ecn: u8,
    /// Fragments overlapped: nothing of it is taken any more.
    refused: bool,
    /// What it costs its owner, bytes.
    price: usize,
}

// The price of a datagram covers what is really kept: itself with a header, and its places in three indexes.
const _: () =
    assert!(mem::size_of::<Datagram>() + 60 + 3 * mem::size_of::<Id>() + 2 * mem::size_of::<Age>() <= DATAGRAM_PRICE);

/// The datagrams whose fragments are on their way.
pub struct Reassembly {
    datagrams: HashMap<Id, Datagram, Keyed>,
    by_age: BTreeMap<Age, Id>,
    by_owner: BTreeMap<(PortId, Age), Key>,
    account: Account,
    arrivals: u64,
    given_up: BTreeMap<(PortId, GivenUp), u64>,
}

impl Reassembly {
    /// Nothing is on its way. `key`: 16 random, secret bytes.
    pub fn new(key: [u8; 16]) -> Reassembly {
        Reassembly {
            datagrams: HashMap::with_hasher(Keyed::new(key)),
            by_age: BTreeMap::new(),
            by_owner: BTreeMap::new(),
            account: Account::new(TOTAL, SHARE),
            arrivals: 0,
            given_up: BTreeMap::new(),
        }
    }

    /// A fragment came; the whole packet if nothing is missing now. An error is about this fragment alone: it was one too
    /// many, a duplicate, or of a datagram that is refused.
    pub fn input(&mut self, origin: Origin, frame: &Frame<'_>, now: Instant) -> Result<Option<Whole>, DropReason> {
        let (key, extent) = frag::read(frame, u32::from(origin.network.0)).ok_or(DropReason::BadTransport)?;
        let Extent { start, end, more } = extent;
        let ill_sized = start % 8 != 0 || more && end % 8 != 0;
        if end <= start || ill_sized || end as usize > MAX_PACKET - ipv4::MIN_LEN {
            return Err(DropReason::FragmentTiny);
        }
        let id = (origin.port, key);
        if self.datagrams.get(&id).is_some_and(|d| d.age.0 <= now) {
            self.give_up(&id, GivenUp::TimedOut);
        }
        let length = (end - start) as usize;
        let known = self.datagrams.get(&id);
        if let Some(datagram) = known {
            if datagram.refused {
                return Err(DropReason::FragmentOverlap);
            }
            if datagram.has(extent) {
                return Err(DropReason::FragmentOverlap); // a duplicate, which harms nobody
            }
            if datagram.contradicts(extent) {
                self.refuse(&id);
                return Err(DropReason::FragmentOverlap);
            }
            if datagram.pieces.len() == MAX_HELD {
                return Err(DropReason::FragmentLimit);
            }
        }
        let price = length + HELD_PRICE + if known.is_some() { 0 } else { DATAGRAM_PRICE };
        let is_new = known.is_none();
        self.make_room(origin.port, price)?;
        if is_new {
            self.begin(id, now);
        }
        // To make room, the datagram itself may have gone: it was its owner's oldest.
        let datagram = self.datagrams.get_mut(&id).ok_or(DropReason::FragmentLimit)?;
        let (header, data) = frame.l3().split_at(frame.l3().len() - length);
        datagram.price += length + HELD_PRICE;
        self.account.charge(origin.port, length + HELD_PRICE);
        datagram.ecn |= 1 << (header[ipv4::TOS] & ECN_CE);
        datagram.have += end - start;
        datagram.pieces.insert(start, data.into());
        if start == 0 {
            datagram.header = Some(header.into());
        }
        if !more {
            datagram.len = Some(end);
        }
        if datagram.len != Some(datagram.have) {
            return Ok(None);
        }
        let whole = datagram.assemble();
        self.remove(&id);
        whole.map(Some)
    }

    /// When [`Reassembly::handle_timeout`] has something to do.
    pub fn next_timeout(&self) -> Option<Instant> {
        self.by_age.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// Gives up what is not whole 30 s after its first arrival.
    pub fn handle_timeout(&mut self, now: Instant) {
        while let Some((&(deadline, _), &id)) = self.by_age.first_key_value()
            && deadline <= now
        {
            self.give_up(&id, GivenUp::TimedOut);
        }
    }

    /// Forgets what belongs to a port that is gone.
    pub fn detach(&mut self, owner: PortId) {
        while let Some(id) = self.oldest_of(owner) {
            self.remove(&id);
        }
    }

    /// How many fragments were held in vain since the last call, by container and reason.
    pub fn take_given_up(&mut self) -> BTreeMap<(PortId, GivenUp), u64> {
        mem::take(&mut self.given_up)
    }

    fn begin(&mut self, id: Id, now: Instant) {
        let age = (now + TIMEOUT, self.arrivals);
        self.arrivals += 1;
        self.by_age.insert(age, id);
        self.by_owner.insert((id.0, age), id.1);
        self.account.charge(id.0, DATAGRAM_PRICE);
        let pieces = BTreeMap::new();
        let price = DATAGRAM_PRICE;
        let datagram = Datagram { age, header: None, pieces, have: 0, len: None, ecn: 0, refused: false, price };
        self.datagrams.insert(id, datagram);
    }

    /// Its fragments overlapped: nothing of it is kept but the knowledge.
    fn refuse(&mut self, id: &Id) {
        let Some(datagram) = self.datagrams.get_mut(id) else { return };
        let held = mem::take(&mut datagram.pieces).len();
        let refund = mem::replace(&mut datagram.price, DATAGRAM_PRICE) - DATAGRAM_PRICE;
        datagram.refused = true;
        self.account.refund(id.0, refund);
        self.count(id.0, GivenUp::Overlapped, held);
    }

    /// Lets old datagrams go until `owner` may use `price` bytes more.
    fn make_room(&mut self, owner: PortId, price: usize) -> Result<(), DropReason> {
        loop {
            match self.account.room(owner, price) {
                Room::Yes => return Ok(()),
                Room::Never => return Err(DropReason::FragmentLimit),
                Room::After(victim) => {
                    let id = self.oldest_of(victim).ok_or(DropReason::FragmentLimit)?;
                    self.give_up(&id, GivenUp::Evicted);
                }
            }
        }
    }

    fn oldest_of(&self, owner: PortId) -> Option<Id> {
        let ((of, _), key) = self.by_owner.range((owner, (Instant::ZERO, 0))..).next()?;
        (*of == owner).then_some((owner, *key))
    }

    fn give_up(&mut self, id: &Id, why: GivenUp) {
        let held = self.remove(id);
        self.count(id.0, why, held);
    }

    fn count(&mut self, owner: PortId, why: GivenUp, fragments: usize) {
        if fragments > 0 {
            *self.given_up.entry((owner, why)).or_default() += fragments as u64;
        }
    }

    /// Forgets a datagram; how many fragments it held.
    fn remove(&mut self, id: &Id) -> usize {
        let Some(datagram) = self.datagrams.remove(id) else { return 0 };
        self.by_age.remove(&datagram.age);
        self.by_owner.remove(&(id.0, datagram.age));
        self.account.refund(id.0, datagram.price);
        datagram.pieces.len()
    }
}

impl Datagram {
    /// Is exactly this there?
    fn has(&self, extent: Extent) -> bool {
        let there = self.pieces.get(&extent.start).is_some_and(|p| p.len() as u32 == extent.end - extent.start);
        there && extent.more == (self.len != Some(extent.end))
    }

    /// Does it overlap what is there, or say another length?
    fn contradicts(&self, extent: Extent) -> bool {
        let Extent { start, end, more } = extent;
        let end_of = |from: &u32, piece: &[u8]| from + piece.len() as u32; // at most 65,535
        let reached = self.pieces.last_key_value().map_or(0, |(from, piece)| end_of(from, piece));
        let length = match (self.len, more) {
            (Some(len), true) => end >= len,
            (Some(len), false) => end != len,
            (None, true) => false,
            (None, false) => end < reached,
        };
        let before = self.pieces.range(..end).next_back().map_or(0, |(from, piece)| end_of(from, piece));
        length || before > start
    }

    /// The packet, of which nothing is missing.
    fn assemble(&mut self) -> Result<Whole, DropReason> {
        let header = self.header.take().ok_or(DropReason::BadTransport)?;
        let total = header.len() + self.have as usize;
        if total > MAX_PACKET {
            return Err(DropReason::TooLong);
        }
        let mut packet = vec![0; HEADROOM];
        packet.reserve_exact(total);
        packet.extend_from_slice(&header);
        for piece in self.pieces.values() {
            packet.extend_from_slice(piece);
        }
        let not_capable = self.ecn & 1 != 0;
        if not_capable && self.ecn != 1 {
            return Err(DropReason::FragmentOverlap); // no datagram has such fragments
        }
        let header = &mut packet[HEADROOM..HEADROOM + header.len()];
        if self.ecn & 1 << ECN_CE != 0 {
            header[ipv4::TOS] |= ECN_CE;
        }
        put16(header, ipv4::TOTAL_LEN, total as u16); // checked above
        put16(header, ipv4::FRAGMENT, 0);
        put16(header, ipv4::CHECKSUM, 0);
        let sum = !checksum::sum(header);
        put16(header, ipv4::CHECKSUM, sum);
        Ok(Whole(packet))
    }
}

#[cfg(test)]
mod tests;
