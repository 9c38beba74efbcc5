//! A world has one uplink: a device, or the sockets of a host that has them.

use pontoon::core::command::{Command, CommandError, UplinkConfig};
use pontoon::core::datapath::Config;

use super::conn::Conn;
use super::lab::{SERVER, config, lab};
use crate::net::{Net, addr};
use crate::packet::udp;

fn device_uplink() -> Command {
    Command::SetUplink(UplinkConfig { address: addr("192.0.2.112"), mtu: 1500, mss_clamp: false })
}

fn socket_uplink() -> Command {
    Command::SetSocketUplink(Box::new(config()))
}

#[test]
fn sockets_take_no_device_beside_them() {
    let mut net = lab();
    for another in [device_uplink(), socket_uplink()] {
        assert!(matches!(net.try_apply(another), Err(CommandError::Busy { what: "uplink", .. })));
    }
    let a = net.attach();
    Conn::open(&mut net, &a, 40_000, SERVER).talk(&mut net, SERVER);
}

#[test]
fn device_takes_no_sockets_beside_it() {
    let mut net = Net::new();
    net.world.sockets = Some(crate::host::Host::default());
    assert!(matches!(net.try_apply(socket_uplink()), Err(CommandError::Busy { what: "uplink", .. })));
    let a = net.attach();
    net.route(&a, &udp("172.17.0.2:1", SERVER));
    assert_eq!(net.left_one().to(), SERVER);
    assert_eq!(net.host().open(), 0);
}

#[test]
fn world_without_sockets_refuses_them() {
    let mut net = Net::bare(Config::default());
    assert!(net.try_apply(socket_uplink()).is_err());
    net.apply(device_uplink());
}
