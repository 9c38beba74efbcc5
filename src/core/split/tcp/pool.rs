//! Memory for data on its way: chunks of three sizes, counted by direction and by container.
//!
//! # Theory of operation
//! The two directions have separate pools: a container that sends what a slow host does not take must not keep another
//! from being sent to, and an echo must not lock itself. Each container may use a part of each pool.
//!
//! A chunk has room for headers before its data, so that a frame is made by writing them there: nothing is copied
//! between a host socket's recv and a device's write.
//!
//! # Limits
//! See [`super::Config`]. A flow that has nothing under way may always have one [`Class::Small`] chunk toward its
//! container, whatever the pools say, so that none starves; data for the host needs no chunk when the socket takes it.

use super::Config;

/// Room before the data of a chunk: a link and a virtio header (64), IPv6 (40) and TCP with options (60), rounded up.
pub(super) const HEAD: usize = 192;

const _: () = assert!(HEAD >= crate::frame::HEADROOM + 40 + 60);

/// Data that the largest chunk holds: as much as a packet.
pub(super) const LARGEST: usize = 65_536;

/// How large a chunk is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Class {
    Small,
    Medium,
    Large,
}

impl Class {
    /// The smallest that holds `len` bytes.
    pub fn of(len: usize) -> Class {
        [Class::Small, Class::Medium].into_iter().find(|c| len <= c.room()).unwrap_or(Class::Large)
    }

    /// Bytes of data it holds.
    pub const fn room(self) -> usize {
        self.size() - HEAD
    }

    /// Bytes it takes.
    pub const fn size(self) -> usize {
        match self {
            Class::Small => 2048,
            Class::Medium => 16_384,
            Class::Large => LARGEST + HEAD,
        }
    }

    /// Unused chunks kept for the next.
    const fn spare(self) -> usize {
        match self {
            Class::Small => 1024,
            Class::Medium => 256,
            Class::Large => 64,
        }
    }
}

/// A piece of a stream.
#[derive(Debug)]
pub(super) struct Chunk {
    pub bytes: Box<[u8]>,
    /// First byte of data.
    pub start: usize,
    /// One past the last.
    pub end: usize,
}

impl Chunk {
    fn new(class: Class) -> Chunk {
        Chunk { bytes: vec![0; class.size()].into_boxed_slice(), start: HEAD, end: HEAD }
    }

    /// Its data.
    pub fn data(&self) -> &[u8] {
        &self.bytes[self.start..self.end]
    }

    /// Bytes of data.
    #[inline]
    pub fn len(&self) -> usize {
        self.end - self.start
    }

    /// Appends what fits; how much that was.
    pub fn append(&mut self, data: &[u8]) -> usize {
        let len = data.len().min(self.bytes.len() - self.end);
        self.bytes[self.end..self.end + len].copy_from_slice(&data[..len]);
        self.end += len;
        len
    }

    fn class(&self) -> Class {
        match self.bytes.len() {
            n if n == Class::Small.size() => Class::Small,
            n if n == Class::Medium.size() => Class::Medium,
            _ => Class::Large,
        }
    }
}

/// Where data goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Toward {
    Host,
    Container,
}

/// What one container uses, bytes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Usage {
    to_host: usize,
    to_container: usize,
}

impl Usage {
    /// For what is under way to the container.
    pub fn in_flight(self) -> usize {
        self.to_container
    }
}

/// Both pools.
#[derive(Debug)]
pub(super) struct Memory {
    used: Usage,
    limit: Usage,
    share: Usage,
    spare: [Vec<Box<[u8]>>; 3],
    scratch: Option<Chunk>,
}

impl Memory {
    pub fn new(config: &Config) -> Memory {
        Memory {
            used: Usage::default(),
            limit: Usage { to_host: config.pool, to_container: config.pool },
            share: Usage { to_host: config.pool_per_port, to_container: config.pool_per_port },
            spare: [const { Vec::new() }; 3],
            scratch: None,
        }
    }

    /// Is there room for a chunk?
    pub fn has_room(&self, toward: Toward, usage: &Usage, class: Class) -> bool {
        let fits = |used: &Usage, limit: &Usage| match toward {
            Toward::Host => used.to_host + class.size() <= limit.to_host,
            Toward::Container => used.to_container + class.size() <= limit.to_container,
        };
        fits(&self.used, &self.limit) && fits(usage, &self.share)
    }

    /// Is half of what this container and all together may store for the host free? Then windows are promised: one that
    /// nobody fills costs nothing, and most are of connections that are idle.
    pub fn is_half_free(&self, usage: &Usage) -> bool {
        self.used.to_host <= self.limit.to_host / 2 && usage.to_host <= self.share.to_host / 2
    }

    /// An empty chunk, on the container's account; whether it may have one was asked before.
    pub fn take(&mut self, toward: Toward, usage: &mut Usage, class: Class) -> Chunk {
        self.charge(toward, usage, class);
        self.fresh(class)
    }

    /// Takes a chunk back.
    pub fn give(&mut self, toward: Toward, usage: &mut Usage, chunk: Chunk) {
        let class = chunk.class();
        for used in [&mut self.used, usage] {
            match toward {
                Toward::Host => used.to_host -= class.size(),
                Toward::Container => used.to_container -= class.size(),
            }
        }
        self.keep(chunk);
    }

    /// A large chunk on nobody's account, to receive into; give it back by [`Memory::return_scratch`], or keep it by
    /// [`Memory::charge`].
    pub fn scratch(&mut self) -> Chunk {
        match self.scratch.take() {
            Some(chunk) => chunk,
            None => self.fresh(Class::Large),
        }
    }

    /// See [`Memory::scratch`].
    pub fn return_scratch(&mut self, mut chunk: Chunk) {
        (chunk.start, chunk.end) = (HEAD, HEAD);
        self.scratch = Some(chunk);
    }

    /// Puts a chunk of this class on the container's account.
    pub fn charge(&mut self, toward: Toward, usage: &mut Usage, class: Class) {
        for used in [&mut self.used, usage] {
            match toward {
                Toward::Host => used.to_host += class.size(),
                Toward::Container => used.to_container += class.size(),
            }
        }
    }

    /// Bytes in use: toward the host, toward containers.
    pub fn used(&self) -> (usize, usize) {
        (self.used.to_host, self.used.to_container)
    }

    fn fresh(&mut self, class: Class) -> Chunk {
        match self.spare[class as usize].pop() {
            Some(bytes) => Chunk { bytes, start: HEAD, end: HEAD },
            None => Chunk::new(class),
        }
    }

    fn keep(&mut self, chunk: Chunk) {
        let class = chunk.class();
        let spare = &mut self.spare[class as usize];
        if spare.len() < class.spare() {
            spare.push(chunk.bytes);
        }
    }
}
