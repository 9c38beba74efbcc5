//! Whether to look for what comes next, rather than sleep until it wakes us.
//!
//! # Theory of operation
//! To be woken costs more than a short exchange, on a virtual machine at least: the waker's CPU interrupts ours, which has to leave
//! its sleep first, and then our caches are cold. An answer is often about to come, so after a turn that moved little, and little at
//! a time, the loop asks again and again for [`LOOK`] before it sleeps.
//!
//! What that costs is somebody else's CPU, so it rests where it does not pay: after [`VAIN`] looks in vain in a row, and beside bulk,
//! whose sender and receiver are at work until the next frame comes (`docs/decisions/looking-before-sleeping.md`).
//!
//! # Limits
//! One look of [`LOOK`] before a sleep, none where there is nothing to wait for.

/// How long to look, microseconds: somewhat more than it takes to wake somebody who answers at once, and to hear from him.
pub const LOOK: u64 = 50;
/// A turn of more frames and sockets is no exchange that waits for its answer.
const FEW: u32 = 4;
/// A frame of more bytes is bulk: one of the usual MTU with its headers is not.
const LONG: usize = 2048;
/// Sleeps after bulk without looking: acknowledgements come between its frames, in turns of their own.
const AFTER_BULK: u32 = 16;
/// Looks in vain in a row after which it is not tried for a while, and how many sleeps that is.
const VAIN: u32 = 4;
const WHILE: u32 = 64;

/// What the turns moved, and what came of looking.
#[derive(Debug, Default)]
pub struct Patience {
    /// Frames and sockets of this turn.
    served: u32,
    /// One was a long frame.
    bulk: bool,
    /// Looks in vain, in a row.
    vain: u32,
    /// Sleeps until it is tried again.
    rest: u32,
}

impl Patience {
    /// A turn begins.
    pub fn begin(&mut self) {
        (self.served, self.bulk) = (0, false);
    }

    /// A frame of so many bytes came, or a socket (0) was ready.
    #[inline]
    pub fn served(&mut self, len: usize) {
        self.served += 1;
        self.moved(len);
    }

    /// A frame of so many bytes was sent.
    #[inline]
    pub fn moved(&mut self, len: usize) {
        self.bulk |= len > LONG;
    }

    /// Shall the loop look before it sleeps?
    pub fn tries(&mut self) -> bool {
        if self.bulk {
            self.rest = self.rest.max(AFTER_BULK);
            return false;
        }
        if self.served == 0 || self.served > FEW {
            return false;
        }
        if self.rest > 0 {
            self.rest -= 1;
            return false;
        }
        true
    }

    /// It did; was something found?
    pub fn looked(&mut self, found: bool) {
        self.vain = if found { 0 } else { self.vain + 1 };
        if self.vain == VAIN {
            (self.vain, self.rest) = (0, WHILE);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn after(patience: &mut Patience, served: &[usize]) -> bool {
        patience.begin();
        served.iter().for_each(|len| patience.served(*len));
        patience.tries()
    }

    #[test]
    fn an_answer_is_looked_for_after_little_and_not_after_much() {
        let fresh = |served: &[usize]| after(&mut Patience::default(), served);
        assert!(fresh(&[60]));
        assert!(fresh(&[60, 1500, 0, 60]));
        assert!(!fresh(&[]), "a timer, or a command");
        assert!(!fresh(&[60; 5]), "a flood");
        assert!(!fresh(&[65_000]));
    }

    #[test]
    fn acknowledgements_beside_bulk_are_not_looked_for() {
        let mut patience = Patience::default();
        for _ in 0..3 {
            assert!(!after(&mut patience, &[65_000]));
            assert!((1..AFTER_BULK).all(|_| !after(&mut patience, &[66])));
        }
        assert!(!after(&mut patience, &[66]));
        assert!(after(&mut patience, &[66]), "the bulk is over");
    }

    #[test]
    fn looking_in_vain_rests_for_a_while() {
        let mut patience = Patience::default();
        for found in [false, false, true].into_iter().chain([false; VAIN as usize]) {
            assert!(after(&mut patience, &[60]));
            patience.looked(found);
        }
        assert!((0..WHILE).all(|_| !after(&mut patience, &[60])));
        assert!(after(&mut patience, &[60]));
    }
}
