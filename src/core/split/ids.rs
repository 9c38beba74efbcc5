//! Names of host sockets, and whose each is.
//!
//! # Theory of operation
//! A [`SocketId`] is a slot and how often the slot was used. Freed slots are used again in the order in which they were
//! freed, so an event that is late by fewer than 4,096 lives of its slot meets nobody.

use std::collections::VecDeque;

use crate::core::socket::SocketId;

/// Who a socket is of, and where in its owner's table; the engines agree on nothing else.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Owner {
    /// A TCP connection.
    TcpFlow(u32),
    /// A published TCP port.
    TcpListener(u32),
    /// A UDP socket.
    Udp(u32),
    /// An ICMP echo socket.
    Ping(u32),
}

/// Bits of an id that are the slot.
const SLOT_BITS: u32 = SocketId::MAX.trailing_zeros();

/// Lives of a slot that can be told apart.
const GENERATIONS: u32 = 1 << (u32::BITS - SLOT_BITS);

/// All names that are in use, at most [`SocketId::MAX`]; grows with the most that were in use at once.
#[derive(Debug, Default)]
pub struct Ids {
    /// The slot's present, or last, generation and its owner.
    slots: Vec<(u16, Option<Owner>)>,
    free: VecDeque<u32>,
}

impl Ids {
    /// Names a socket; `None`: all names are in use.
    pub fn insert(&mut self, owner: Owner) -> Option<SocketId> {
        // A few slots rest in the queue, so that one connection after another does not wear out one slot.
        const REST: usize = 64;
        let slot = if self.free.len() > REST || self.slots.len() >= SocketId::MAX {
            self.free.pop_front()?
        } else {
            self.slots.push((0, None));
            (self.slots.len() - 1) as u32 // below SocketId::MAX
        };
        let (generation, place) = self.slots.get_mut(slot as usize)?;
        *place = Some(owner);
        Some(SocketId(u32::from(*generation) << SLOT_BITS | slot))
    }

    /// Whose the socket is; `None` if it is gone.
    #[inline]
    pub fn get(&self, id: SocketId) -> Option<Owner> {
        let (generation, owner) = self.slots.get(id.slot())?;
        if u32::from(*generation) == id.0 >> SLOT_BITS { *owner } else { None }
    }

    /// Frees the name; whose it was.
    pub fn remove(&mut self, id: SocketId) -> Option<Owner> {
        let (generation, place) = self.slots.get_mut(id.slot())?;
        if u32::from(*generation) != id.0 >> SLOT_BITS {
            return None;
        }
        let owner = place.take()?;
        *generation = ((u32::from(*generation) + 1) % GENERATIONS) as u16; // below 4,096
        self.free.push_back(id.slot() as u32); // below SocketId::MAX
        Some(owner)
    }

    /// How many are in use.
    pub fn len(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Is none in use?
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_event_for_a_socket_that_is_gone_meets_nobody() {
        let mut ids = Ids::default();
        let mut gone = Vec::new();
        for n in 0..10_000 {
            let id = ids.insert(Owner::TcpFlow(n)).unwrap();
            assert_eq!(ids.get(id), Some(Owner::TcpFlow(n)));
            assert_eq!(ids.remove(id), Some(Owner::TcpFlow(n)));
            assert_eq!((ids.get(id), ids.remove(id)), (None, None));
            gone.push(id);
        }
        gone.sort_unstable();
        gone.dedup();
        assert_eq!(gone.len(), 10_000, "no name came twice");
        assert!(ids.is_empty() && ids.slots.len() <= 66);
    }

    #[test]
    fn names_end_at_the_limit_and_come_back() {
        let mut ids = Ids::default();
        let all: Vec<SocketId> = (0..SocketId::MAX as u32).map(|n| ids.insert(Owner::Udp(n)).unwrap()).collect();
        assert_eq!(ids.insert(Owner::Ping(0)), None);
        ids.remove(all[77]).unwrap();
        let again = ids.insert(Owner::Ping(1)).unwrap();
        assert_eq!(again.slot(), all[77].slot());
        assert_ne!(again, all[77]);
        assert_eq!(ids.len(), SocketId::MAX);
    }
}
