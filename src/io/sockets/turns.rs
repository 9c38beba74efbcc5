//! Who is next: ready sockets by the container whose they are, one of each in turn.
//!
//! A socket is in its container's queue once, in the order in which it became ready; containers that have any take turns. So
//! thousands of ready sockets of one container delay another's by one socket's share of a turn.

use std::collections::VecDeque;

use crate::core::port::PortId;
use crate::core::socket::SocketId;

/// Ready sockets.
#[derive(Debug, Default)]
pub(super) struct Turns {
    /// By the slot of the container's port; grows with the highest that ever had one.
    queues: Vec<VecDeque<SocketId>>,
    /// Slots that have any, the next one first.
    order: VecDeque<u16>,
    len: usize,
}

impl Turns {
    /// A socket became ready, which is not in here.
    pub fn push(&mut self, id: SocketId, port: PortId) {
        let slot = port.0 as u16; // what is above counts how often the slot was used
        let at = usize::from(slot);
        if self.queues.len() <= at {
            self.queues.resize_with(at + 1, VecDeque::new);
        }
        if self.queues[at].is_empty() {
            self.order.push_back(slot);
        }
        self.queues[at].push_back(id);
        self.len += 1;
    }

    /// Takes the socket whose turn it is.
    pub fn pop(&mut self) -> Option<SocketId> {
        let slot = self.order.pop_front()?;
        let queue = &mut self.queues[usize::from(slot)];
        let id = queue.pop_front()?;
        self.len -= 1;
        if !queue.is_empty() {
            self.order.push_back(slot);
        }
        Some(id)
    }

    /// How many are in here.
    pub fn len(&self) -> usize {
        self.len
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sockets_of_one_container_do_not_delay_anothers() {
        let mut turns = Turns::default();
        let (many, one, few) = (PortId(3), PortId(0x1_0007), PortId(9));
        for n in 0..1000 {
            turns.push(SocketId(n), many);
        }
        turns.push(SocketId(5000), one);
        turns.push(SocketId(6000), few);
        turns.push(SocketId(6001), few);
        let order: Vec<u32> = std::iter::from_fn(|| turns.pop()).map(|id| id.0).collect();
        assert_eq!(order[..6], [0, 5000, 6000, 1, 6001, 2]);
        assert_eq!(order.len(), 1003);
        assert_eq!((turns.len(), turns.pop()), (0, None));
    }

    #[test]
    fn sockets_of_a_container_are_served_in_the_order_in_which_they_became_ready() {
        let mut turns = Turns::default();
        for n in [4, 2, 9] {
            turns.push(SocketId(n), PortId(1));
        }
        assert_eq!(turns.pop(), Some(SocketId(4)));
        turns.push(SocketId(4), PortId(1));
        assert_eq!([turns.pop(), turns.pop(), turns.pop()], [2, 9, 4].map(|n| Some(SocketId(n))));
    }
}
