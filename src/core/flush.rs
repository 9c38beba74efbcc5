//! Removing many flows, a part at a time, with frames in between.
//!
//! # Theory of operation
//! A container that goes, a published port that is withdrawn and a flush take flows along, maybe all of a million. Their
//! command does all else at once; of the flows each call removes so many, and its caller has other work between two calls:
//!
//! ```text
//! start(command) ─► Done | More(unfinished) ─► proceed(unfinished) ─► Done | More ...
//! ```
//!
//! Tracked flows are found in one pass over the table ([`Purge`]), which passes over those that begin meanwhile; the flows of
//! host sockets by their container, as many as it had. Until the last is gone, packets of the others pass: the command is
//! answered then.
//!
//! # Limits
//! A step removes [`STEP_REMOVALS`](super::conntrack::STEP_REMOVALS) tracked flows or looks at
//! [`STEP_LOOKS`](super::conntrack::STEP_LOOKS), well under a millisecond; or ends [`SOCKETS`] flows of host sockets, some
//! 10 us each. What is not in steps: the host sockets of a container that goes, and all flows of an uplink that changes its
//! address.

use std::collections::VecDeque;

use super::command::{Applied, Command, CommandError};
use super::conntrack::{OwnerId, Purge};
use super::datapath::Datapath;
use super::port::PortId;
use super::time::Instant;
use super::world::World;

/// Flows of host sockets that one step ends.
const SOCKETS: usize = 64;

/// How far a command has come.
#[derive(Debug)]
#[must_use]
pub enum Progress {
    /// It is done.
    Done(Applied),
    /// It is applied, but flows are left to remove.
    More(Unfinished),
}

/// What is left to do.
#[derive(Debug)]
pub struct Unfinished {
    purge: Purge,
    /// Containers whose flows over host sockets end, and how many each had.
    sockets: VecDeque<(PortId, usize)>,
    /// Flows that are gone, those of `purge` left out.
    gone: usize,
}

impl Datapath {
    /// Applies a command whole, or refuses it whole.
    pub fn apply(&mut self, command: Command, now: Instant, world: &mut dyn World) -> Result<Applied, CommandError> {
        let mut progress = self.start(command, now, world)?;
        loop {
            match progress {
                Progress::Done(applied) => return Ok(applied),
                Progress::More(unfinished) => progress = self.proceed(unfinished, now, world),
            }
        }
    }

    /// Applies a command, or refuses it whole. Flows that it removes may be left to [`Datapath::proceed`].
    pub fn start(&mut self, command: Command, now: Instant, world: &mut dyn World) -> Result<Progress, CommandError> {
        match command {
            Command::Detach { port } => self.detach(port, now, world),
            Command::Unpublish { name, ports } => self.unpublish(&name, &ports, now, world),
            Command::FlushFlows { name } => self.flush_flows(name.as_deref(), now, world),
            command => self.apply_at_once(command, now, world).map(Progress::Done),
        }
    }

    /// One step of what [`Datapath::start`] left.
    pub fn proceed(&mut self, mut unfinished: Unfinished, now: Instant, world: &mut dyn World) -> Progress {
        let Unfinished { purge, sockets, gone } = &mut unfinished;
        if let Some((port, had)) = sockets.front_mut() {
            let most = SOCKETS.min(*had);
            let ended = self.flush_sockets(*port, most, now, world);
            *gone += ended;
            *had -= ended.min(*had);
            if ended < most || *had == 0 {
                sockets.pop_front();
            }
            return Progress::More(unfinished);
        }
        if !self.flows.purge(purge) {
            return Progress::More(unfinished);
        }
        Progress::Done(Applied::Flushed(*gone + purge.removed()))
    }

    /// Begins to remove tracked flows: those that any of `owners` is charged for (`None`: all), and those of these `tags`;
    /// and ends the flows over host sockets of `sockets`. `gone`: how many are gone already.
    pub(super) fn remove_flows(
        &mut self,
        owners: Option<Vec<OwnerId>>,
        tags: Vec<u32>,
        sockets: VecDeque<(PortId, usize)>,
        gone: usize,
        now: Instant,
        world: &mut dyn World,
    ) -> Progress {
        let purge = Purge::new(owners, tags, now);
        self.proceed(Unfinished { purge, sockets, gone }, now, world)
    }
}
