//! What a frame came to: the event loop gives a container that sends much for nothing less of its time.

/// What came of a container's frame.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Worth {
    /// It went on, was answered, or brought a connection forward.
    #[default]
    Something,
    /// It was dropped for another reason than congestion, or is a segment that changed nothing: what it acknowledges was acknowledged, what it carries was had.
    Nothing,
    /// It began a connection over a host socket, which is dear and comes to nothing if the container says no more.
    Attempt,
    /// It completed a connection that an [`Worth::Attempt`] had begun.
    Completion,
}
