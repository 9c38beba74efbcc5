//! What the event loop does for other threads, and what it tells them.
//!
//! # Theory of operation
//! The loop owns the datapath and every port. The control thread puts a request into the loop's channel, wakes it, and
//! blocks until it is answered, which the loop does between two turns; [`ANSWER_WITHIN`] bounds the wait. The other way
//! round nothing blocks: what happens in the loop and concerns the control thread is a [`Notice`].

use std::fs::File;
use std::io;
use std::sync::Arc;
use std::time::Duration;

use crossbeam_channel::{Receiver, Sender};
use mio::Waker;

use crate::core::command::{Answer, Applied, Command, CommandError, Query};
use crate::core::port::PortId;

/// How long an answer of the loop is waited for. A turn takes well under a millisecond; a loop that is silent for this
/// long is stuck in the kernel.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(5);

/// The running event loop, from outside.
pub trait Switch {
    /// The device of a port: a TAP.
    type Port;

    /// Has the core apply a command.
    fn apply(&self, command: Command) -> Result<Applied, SwitchError>;

    /// Has the core answer a query.
    fn query(&self, query: Query) -> Result<Answer, SwitchError>;

    /// Hands the device of a reserved port over; frames pass from [`Command::Open`] on.
    fn add_port(&self, port: PortId, device: Self::Port) -> Result<(), NotAdded<Self::Port>>;

    /// Takes the device back; `None`: the loop has none for this port.
    fn remove_port(&self, port: PortId) -> Result<Option<Self::Port>, SwitchError>;

    /// Writes every frame to `file` as pcapng, in place of the file before; `None`: no more.
    fn capture(&self, file: Option<File>) -> Result<(), SwitchError>;

    /// Ends the loop and waits for its end; it gives its uplink up.
    fn shutdown(self) -> Result<(), SwitchError>;
}

/// A device that the loop did not take.
#[derive(Debug)]
pub struct NotAdded<P> {
    /// Why.
    pub why: SwitchError,
    /// The device, if the loop gave it back.
    pub device: Option<P>,
}

/// Why the loop did not do it.
#[derive(Debug, thiserror::Error)]
pub enum SwitchError {
    /// The core refused.
    #[error(transparent)]
    Refused(#[from] CommandError),
    /// A system call failed.
    #[error("{what}: {why}")]
    Failed { what: &'static str, why: io::Error },
    /// It did not answer.
    #[error(
        "the event loop has not answered for {} s; see what its process waits for (/proc/PID/stack), or restart it",
        ANSWER_WITHIN.as_secs()
    )]
    Silent,
    /// It has ended.
    #[error("the event loop has ended; restart pontoon")]
    Ended,
}

/// What the loop tells.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Notice {
    /// The device of this port was deleted, or its descriptor is out of order.
    PortGone(PortId),
    /// Capturing has stopped by itself.
    CaptureEnded { why: String },
    /// The loop cannot go on.
    Stopped { why: String },
}

/// The loop's end of the notices.
#[derive(Debug, Clone)]
pub struct Notifier {
    sender: Sender<Notice>,
    waker: Arc<Waker>,
}

impl Notifier {
    /// A notifier that wakes by `waker`, and what it fills.
    pub fn new(waker: Arc<Waker>) -> (Notifier, Receiver<Notice>) {
        // Bounded by what there is to tell: a port is told gone once, a capture ended once, and a lost notice would be a
        // port that stays for ever.
        let (sender, receiver) = crossbeam_channel::unbounded();
        (Notifier { sender, waker }, receiver)
    }

    /// Tells, without blocking. Telling somebody who has gone does nothing.
    pub fn tell(&self, notice: Notice) {
        if self.sender.send(notice).is_ok()
            && let Err(error) = self.waker.wake()
        {
            log::warn!("cannot wake the control thread: {error}");
        }
    }
}
