//! Doubly linked lists through a slab: a member is found, moved and removed in constant time, and nothing is allocated.

/// No member.
pub(super) const NIL: u32 = u32::MAX;

/// The two lists that a flow is in at once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Chain {
    /// By rank and timeout class; also the list of free slots (singly linked).
    Timer = 0,
    /// By owner and rank.
    Owner = 1,
}

#[derive(Clone, Copy, Debug)]
struct Link {
    prev: u32,
    next: u32,
}

/// What a flow needs to be in its lists; kept apart from the flow so that a packet of a known flow does not touch it.
#[derive(Clone, Debug)]
pub(super) struct Node {
    links: [Link; 2],
    /// Microseconds: the stamp by which the timer list is ordered. The flow's own stamp may be younger.
    pub(super) queued: u64,
}

impl Node {
    pub(super) fn new() -> Node {
        let nil = Link { prev: NIL, next: NIL };
        Node { links: [nil; 2], queued: 0 }
    }

    pub(super) fn next(&self, chain: Chain) -> u32 {
        self.links[chain as usize].next
    }

    pub(super) fn set_next(&mut self, chain: Chain, next: u32) {
        self.links[chain as usize].next = next;
    }
}

/// Both ends of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ends {
    pub(super) head: u32,
    pub(super) tail: u32,
}

impl Ends {
    pub(super) const EMPTY: Ends = Ends { head: NIL, tail: NIL };

    pub(super) fn is_empty(&self) -> bool {
        self.head == NIL
    }

    /// Appends node `n`, which must be in no list of this chain.
    pub(super) fn push(&mut self, nodes: &mut [Node], chain: Chain, n: u32) {
        nodes[n as usize].links[chain as usize] = Link { prev: self.tail, next: NIL };
        match self.tail {
            NIL => self.head = n,
            tail => nodes[tail as usize].links[chain as usize].next = n,
        }
        self.tail = n;
    }

    /// Removes node `n`, which must be in this list.
    pub(super) fn unlink(&mut self, nodes: &mut [Node], chain: Chain, n: u32) {
        let Link { prev, next } = nodes[n as usize].links[chain as usize];
        match prev {
            NIL => self.head = next,
            prev => nodes[prev as usize].links[chain as usize].next = next,
        }
        match next {
            NIL => self.tail = prev,
            next => nodes[next as usize].links[chain as usize].prev = prev,
        }
    }

    /// All members from head to tail, with both directions of every link checked: for the audit of tests.
    #[cfg(test)]
    pub(super) fn audit(&self, nodes: &[Node], chain: Chain) -> Vec<u32> {
        let (mut all, mut prev, mut at) = (Vec::new(), NIL, self.head);
        while at != NIL {
            assert_eq!(nodes[at as usize].links[chain as usize].prev, prev);
            all.push(at);
            assert!(all.len() <= nodes.len(), "a list runs in a circle");
            prev = at;
            at = nodes[at as usize].next(chain);
        }
        assert_eq!(self.tail, prev);
        all
    }
}
