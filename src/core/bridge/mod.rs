//! The switch's own rules: what it learned, who may claim what, how much one port may flood.
//!
//! # Theory of operation
//! A frame that a port may send ([`guard`]) teaches the switch where its source is ([`fdb`]), then goes to the one port
//! where its destination is known to be, or, if it is a group or unknown address, to all others, within the port's
//! [`bucket`]. The journey itself is in `core::datapath`.

pub mod bucket;
pub mod fdb;
pub mod guard;

use crate::wire::mac::Mac;

/// What a bridge does with a group address of the range 01:80:c2:00:00:0X while it speaks no spanning tree itself
/// (Linux net/bridge/br_input.c `br_handle_frame`, B09): BPDUs pass, PAUSE and the rest stay on their link.
pub fn is_reserved_group(dst: Mac) -> bool {
    dst.0[..5] == [0x01, 0x80, 0xc2, 0x00, 0x00] && (0x01..=0x0f).contains(&dst.0[5])
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bpdus_pass_and_link_local_groups_do_not() {
        let group = |last| Mac([0x01, 0x80, 0xc2, 0, 0, last]);
        assert!(!is_reserved_group(group(0x00)));
        assert!((0x01..=0x0f).all(|last| is_reserved_group(group(last))));
        assert!(!is_reserved_group(group(0x10)));
        assert!(!is_reserved_group(Mac::BROADCAST));
    }
}
