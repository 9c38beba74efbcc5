//! What tests hold a table against.

use super::*;

impl Table {
    /// Where the slab lies and how much it holds, and the longest run of the index.
    pub(in crate::core::conntrack) fn places(&self) -> (*const Flow, usize, usize) {
        let run = self.index.longest_run();
        (self.flows.as_ptr(), self.flows.capacity(), run)
    }

    /// Walks everything and holds it against everything else.
    pub(in crate::core::conntrack) fn audit(&self) {
        let live: Vec<u32> =
            (0..self.flows.len() as u32).filter(|&slot| !self.flows[slot as usize].is_free()).collect();
        let mut want = Stats { flows: live.len() as u32, ..self.stats };
        (want.tcp, want.udp, want.icmp, want.other) = (0, 0, 0, 0);
        want.tcp_states = [0; State::COUNT];
        for &slot in &live {
            let flow = &self.flows[slot as usize];
            for dir in [Direction::Original, Direction::Reply] {
                let tuple = flow.tuple(dir);
                assert_eq!(self.find(tuple, self.hash(tuple)), Some((slot, dir)));
            }
            match flow.original.proto {
                tuple::TCP => want.tcp += 1,
                tuple::UDP => want.udp += 1,
                tuple::ICMP | tuple::ICMPV6 => want.icmp += 1,
                _ => want.other += 1,
            }
            if let Some(state) = flow.tcp_state() {
                want.tcp_states[state as usize] += 1;
            }
        }
        assert_eq!(self.stats, want);
        assert_eq!(self.index.len(), 2 * live.len());
        assert!(self.stats.flows <= self.limit);

        let mut timed = Vec::new();
        for (n, ends) in self.lists.iter().enumerate() {
            assert_eq!(self.busy >> n & 1 == 1, !ends.is_empty());
            let members = ends.audit(&self.nodes, Chain::Timer);
            assert!(members.is_sorted_by_key(|&slot| self.nodes[slot as usize].queued));
            for &slot in &members {
                let flow = &self.flows[slot as usize];
                assert_eq!(usize::from(flow.list), n);
                assert_eq!(flow.rank() as usize, n / Class::COUNT);
                let class = self.micros[n % Class::COUNT];
                let looked_at = self.nodes[slot as usize].queued + class;
                let late = looked_at.saturating_sub(flow.deadline(&self.micros));
                assert!(late <= class, "collected more than one timeout late");
            }
            timed.extend(members);
        }
        timed.sort_unstable();
        assert_eq!(timed, live);

        let mut owned = Vec::new();
        let mut owners: Vec<_> = live.iter().map(|&s| self.flows[s as usize].owner).collect();
        owners.sort_unstable();
        owners.dedup();
        assert_eq!(owners.len(), self.owners.len());
        for owner in owners {
            let account = &self.owners[&owner];
            let before = owned.len();
            for (rank, ends) in account.ranks.iter().enumerate() {
                for slot in ends.audit(&self.nodes, Chain::Owner) {
                    let flow = &self.flows[slot as usize];
                    assert_eq!((flow.owner, flow.rank() as usize), (owner, rank));
                    owned.push(slot);
                }
            }
            assert_eq!(account.count as usize, owned.len() - before);
            assert!(account.count <= self.quota);
        }
        owned.sort_unstable();
        assert_eq!(owned, live);

        let (mut free, mut at) = (0, self.free);
        while at != NIL {
            assert!(self.flows[at as usize].is_free());
            free += 1;
            at = self.nodes[at as usize].next(Chain::Timer);
        }
        assert_eq!(free + live.len(), self.flows.len());
    }
}
