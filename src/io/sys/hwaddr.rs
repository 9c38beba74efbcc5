//! The MAC address of a TAP, read from its descriptor: no namespace has to be entered for it.

use std::io;
use std::os::fd::AsFd;

use rustix::ioctl::{self, Opcode};

use super::tuntap::Device;
use crate::wire::mac::Mac;

/// The MAC address of a TAP.
pub fn of(device: &Device) -> io::Result<Mac> {
    // SAFETY: `ifreq` is plain old data; all zeroes is a value of it.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    // SAFETY: SIOCGIFHWADDR reads and writes one `struct ifreq`, which `request` is.
    let call = unsafe { ioctl::Updater::<{ libc::SIOCGIFHWADDR as Opcode }, _>::new(&mut request) };
    // SAFETY: the TUN driver, whose device this descriptor is (a `Device` cannot be another), answers it for the device
    // the descriptor is attached to (`__tun_chr_ioctl`).
    unsafe { ioctl::ioctl(device.as_fd(), call) }?;
    // SAFETY: the call filled the hardware address; the union was zeroed before, and any bytes are a `sockaddr`.
    let address = unsafe { request.ifr_ifru.ifru_hwaddr };
    Ok(Mac(std::array::from_fn(|n| address.sa_data[n].cast_unsigned())))
}
