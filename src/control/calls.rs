//! What each call does.
//!
//! # Theory of operation
//! [`Calls`] runs on the control thread, one call after the other, so two attachments never interleave. An attachment is
//! made in steps, and a step that fails takes the ones before it back:
//!
//! ```text
//! reserve (core: port, addresses) -> publish -> make the device (helper) -> hand it to the loop -> open the port
//! ```
//!
//! # Invariants
//! - Every port that a call opened is in `attachments`, with the life that ends it, until it is detached; the device
//!   itself is the loop's in between.
//! - A call that fails has changed nothing.

use std::collections::{BTreeMap, VecDeque};
use std::fs::{File, OpenOptions};
use std::os::fd::{BorrowedFd, OwnedFd};
use std::os::unix::fs::{FileTypeExt, OpenOptionsExt};
use std::path::Path;

use rustix::fs::OFlags;
use serde::Serialize;
use serde_json::{Value, json};

use super::plumber::{Leaving, Plugged, Plumber};
use super::portspec::{self, PortSpec};
use super::protocol::{
    ApiError, Attach, Attached, Call, CaptureStart, Class, Detach, FlushFlows, LogLevel, Named, Nothing, Publish,
    Published, Route, Unpublish,
};
use crate::core::command::{
    Answer, Applied, Command, CommandError, Endpoint, EndpointRequest, MacChoice, Publication, PublicationRequest,
    Query,
};
use crate::core::port::PortId;
use crate::io::enter::{Request, Target};
use crate::io::lifetime::Life;
use crate::io::netcfg::Config;
use crate::io::switch::{NotAdded, Switch, SwitchError};
use crate::io::sys::tuntap::{Header, Kind};

/// Rows that are fetched from the loop at once: some hundred microseconds of its time.
pub const PAGE: usize = 512;

/// A connection to the server. Never reused.
pub type ClientId = usize;

/// The calls, on a switch.
#[derive(Debug)]
pub struct Calls<S: Switch, P: Plumber<Port = S::Port>> {
    switch: S,
    plumber: P,
    attachments: BTreeMap<PortId, Attachment>,
    /// Attached since [`Calls::take_new`].
    new: Vec<PortId>,
    /// By whose connection no port lives any more, since [`Calls::take_bereft`].
    bereft: Vec<ClientId>,
    stopping: bool,
}

/// A port that a call opened.
#[derive(Debug)]
struct Attachment {
    name: String,
    ifname: String,
    origin: Origin,
    life: Life,
}

/// Where a device came from.
#[derive(Debug)]
enum Origin {
    /// The helper opened it.
    Opened(Request),
    /// This client brought it, and it ends with the client.
    Brought(ClientId),
}

/// A successful answer.
pub enum Reply {
    One(Value),
    Many(Listing),
}

/// A listing, told as fast as its reader reads.
pub struct Listing {
    rows: Rows,
    /// What brings the next page.
    next: Option<Query>,
}

type Rows = Box<dyn Iterator<Item = serde_json::Result<String>>>;

impl Listing {
    /// Fetches the first page, so that a failure is a failure of the call.
    fn begin(query: Query, switch: &impl Switch) -> Result<Listing, ApiError> {
        let mut listing = Listing { rows: Box::new(std::iter::empty()), next: Some(query) };
        listing.fetch(switch)?;
        Ok(listing)
    }

    /// The next row as JSON; `None`: that was all.
    pub fn next_row(&mut self, switch: &impl Switch) -> Result<Option<String>, ApiError> {
        loop {
            if let Some(row) = self.rows.next() {
                return row.map(Some).map_err(internal);
            }
            if self.next.is_none() {
                return Ok(None);
            }
            self.fetch(switch)?;
        }
    }

    fn fetch(&mut self, switch: &impl Switch) -> Result<(), ApiError> {
        let Some(query) = self.next.take() else {
            return Ok(());
        };
        self.rows = match switch.query(query)? {
            Answer::Networks(all) => rows(all),
            Answer::Ports(all) => rows(all),
            Answer::Published(all) => rows(all),
            Answer::Rules(all) => rows(all),
            Answer::Routes(all) => rows(all),
            Answer::Stats(one) => rows(vec![one]),
            Answer::Fdb(page) => {
                self.next = page.next.map(|cursor| Query::Fdb { cursor, max: PAGE });
                rows(page.rows)
            }
            Answer::Flows(page) => {
                self.next = page.next.map(|cursor| Query::Flows { cursor, max: PAGE });
                rows(page.rows)
            }
            Answer::Neighbours(page) => {
                self.next = page.next.map(|cursor| Query::Neighbours { cursor, max: PAGE });
                rows(page.rows)
            }
        };
        Ok(())
    }
}

fn rows<T: Serialize + 'static>(all: Vec<T>) -> Rows {
    Box::new(all.into_iter().map(|row| serde_json::to_string(&row)))
}

fn internal(error: serde_json::Error) -> ApiError {
    ApiError::new(Class::Internal, format!("cannot write the answer: {error}"))
}

fn unexpected() -> ApiError {
    ApiError::new(Class::Internal, "the event loop gave the answer of another question")
}

impl<S: Switch, P: Plumber<Port = S::Port>> Calls<S, P> {
    /// Calls on `switch`, with devices by `plumber`.
    pub fn new(switch: S, plumber: P) -> Calls<S, P> {
        Calls { switch, plumber, attachments: BTreeMap::new(), new: Vec::new(), bereft: Vec::new(), stopping: false }
    }

    /// The switch.
    pub fn switch(&self) -> &S {
        &self.switch
    }

    /// Has somebody asked for the end?
    pub fn is_stopping(&self) -> bool {
        self.stopping
    }

    /// Does what `client` asks. A descriptor that a call needs is the oldest of `fds`.
    pub fn execute(&mut self, call: Call, client: ClientId, fds: &mut VecDeque<OwnedFd>) -> Result<Reply, ApiError> {
        let list = |query| Listing::begin(query, &self.switch).map(Reply::Many);
        match call {
            Call::NetworkList(Nothing {}) => return list(Query::Networks),
            Call::Ports(Nothing {}) => return list(Query::Ports),
            Call::Published(Nothing {}) => return list(Query::Published),
            Call::RuleList(Nothing {}) => return list(Query::Rules),
            Call::Routes(Nothing {}) => return list(Query::Routes),
            Call::Fdb(Nothing {}) => {
                return list(Query::Fdb { cursor: 0, max: PAGE });
            }
            Call::Flows(Nothing {}) => {
                return list(Query::Flows { cursor: 0, max: PAGE });
            }
            Call::Neighbours(Nothing {}) => {
                return list(Query::Neighbours { cursor: 0, max: PAGE });
            }
            Call::Stats(Nothing {}) => return self.stats(),
            Call::Inspect(Named { name }) => return self.inspect(&name),
            Call::Attach(attach) => {
                let attached = self.attach(attach, client, fds)?;
                return serde_json::to_value(attached).map(Reply::One).map_err(internal);
            }
            Call::Detach(Detach { name, ifname }) => {
                return self.detach(&name, ifname.as_deref());
            }
            Call::NetworkAdd(spec) => self.done(Command::AddNetwork(spec.config()))?,
            Call::NetworkRemove(Named { name }) => self.done(Command::RemoveNetwork { name })?,
            Call::Publish(Publish { name, ifname, ports }) => {
                let published = portspec::resolve(&ports, &self.publish(name.clone(), ifname, expand(&ports)?)?);
                tell_chosen(&name, &ports, &published);
                return serde_json::to_value(Published { published }).map(Reply::One).map_err(internal);
            }
            Call::Unpublish(Unpublish { name, ports }) => {
                self.done(Command::Unpublish { name, ports: expand(&ports)? })?
            }
            Call::RuleAdd(rule) => self.done(Command::AddRule(rule.into()))?,
            Call::RuleRemove(rule) => self.done(Command::RemoveRule(rule.into()))?,
            Call::RouteAdd(Route { dst }) => self.done(Command::AddRoute { dst })?,
            Call::RouteRemove(Route { dst }) => self.done(Command::RemoveRoute { dst })?,
            Call::FlushFlows(FlushFlows { name }) => {
                return match self.switch.apply(Command::FlushFlows { name })? {
                    Applied::Flushed(flows) => Ok(Reply::One(json!({ "flushed": flows }))),
                    Applied::Done | Applied::Uplink(_) | Applied::Reserved(_) | Applied::Published(_) => {
                        Err(unexpected())
                    }
                };
            }
            Call::Version(Nothing {}) => {
                return Ok(Reply::One(json!({
                    "name": env!("CARGO_PKG_NAME"),
                    "version": env!("CARGO_PKG_VERSION"),
                    "pid": rustix::process::getpid().as_raw_nonzero().get(),
                })));
            }
            Call::CaptureStart(CaptureStart { path }) => {
                self.switch.capture(Some(capture_file(&path)?))?;
            }
            Call::CaptureStop(Nothing {}) => self.switch.capture(None)?,
            Call::LogLevel(LogLevel { level }) => log::set_max_level(level.into()),
            Call::Shutdown(Nothing {}) => self.stopping = true,
        }
        Ok(Reply::One(json!({})))
    }

    /// Applies a command of which the caller is told only that it is done.
    fn done(&self, command: Command) -> Result<(), ApiError> {
        self.switch.apply(command)?;
        Ok(())
    }

    /// What was published, in the order of `ports`.
    fn publish(
        &self,
        name: String,
        ifname: Option<String>,
        ports: Vec<PublicationRequest>,
    ) -> Result<Vec<Publication>, ApiError> {
        match self.switch.apply(Command::Publish { name, ifname, ports })? {
            Applied::Published(published) => Ok(published),
            Applied::Done | Applied::Uplink(_) | Applied::Reserved(_) | Applied::Flushed(_) => Err(unexpected()),
        }
    }

    fn attach(&mut self, attach: Attach, client: ClientId, fds: &mut VecDeque<OwnedFd>) -> Result<Attached, ApiError> {
        let publications = expand(&attach.publish)?;
        let supply = match place(&attach, fds)? {
            Place::In(target) => Supply::Wanted(target),
            Place::Brought(fd) => Supply::Brought(self.plumber.adopt(fd).map_err(|error| at("take the TAP", error))?),
        };
        // A device that is brought has its MAC address already, and the neighbours are to be told that one.
        let own_mac = match &supply {
            Supply::Brought(plugged) => plugged.mac.map(MacChoice::Given),
            Supply::Wanted(_) => None,
        };
        let reserve = Command::Reserve(EndpointRequest {
            name: attach.name.clone(),
            network: attach.network.clone(),
            ifname: attach.ifname.clone(),
            ip: attach.ip,
            mac: attach.mac.map(|spec| spec.0).or(own_mac).unwrap_or_default(),
            isolated: attach.isolated,
        });
        let endpoint = match self.switch.apply(reserve) {
            Ok(Applied::Reserved(endpoint)) => endpoint,
            Ok(Applied::Done | Applied::Uplink(_) | Applied::Published(_) | Applied::Flushed(_)) => {
                return Err(unexpected());
            }
            Err(error) => {
                if let Supply::Brought(plugged) = supply {
                    self.give_up(plugged.port, None);
                }
                return Err(at("reserve an address", error.into()));
            }
        };
        let port = endpoint.port;
        let (attachment, published) = match self.equip(&attach, &endpoint, supply, publications, client) {
            Ok(equipped) => equipped,
            Err(error) => {
                self.unreserve(port);
                return Err(error);
            }
        };
        self.attachments.insert(port, attachment);
        self.new.push(port);
        log::info!("{} {}: attached to {} as {port}", attach.name, attach.ifname, attach.network);
        let published = portspec::resolve(&attach.publish, &published);
        tell_chosen(&attach.name, &attach.publish, &published);
        Ok(Attached {
            port: port.0,
            name: attach.name,
            network: attach.network,
            ifname: attach.ifname,
            ip: endpoint.ip,
            mac: endpoint.mac,
            gateway: endpoint.gateway,
            mtu: endpoint.mtu,
            published,
        })
    }

    /// Publishes, gets the device and opens the port. A failure leaves no device; the reservation, and what is published
    /// with it, is the caller's to take back.
    fn equip(
        &mut self,
        attach: &Attach,
        endpoint: &Endpoint,
        supply: Supply<S::Port>,
        publications: Vec<PublicationRequest>,
        client: ClientId,
    ) -> Result<(Attachment, Vec<Publication>), ApiError> {
        let port = endpoint.port;
        // What the core may refuse comes before the namespace is touched.
        let published = if publications.is_empty() {
            Ok(Vec::new())
        } else {
            self.publish(attach.name.clone(), Some(attach.ifname.clone()), publications)
        };
        let published = match published {
            Ok(published) => published,
            Err(error) => {
                if let Supply::Brought(plugged) = supply {
                    self.give_up(plugged.port, None);
                }
                return Err(at("publish", error));
            }
        };
        let (plugged, origin) = match supply {
            Supply::Brought(plugged) => (plugged, Origin::Brought(client)),
            Supply::Wanted(target) => {
                // As docker has it: the network that a container joined first is its way out.
                let is_first = self.attachments.values().all(|one| one.name != attach.name);
                let request = request(target, attach, endpoint, is_first);
                match self.plumber.open(&request) {
                    Ok(plugged) => (plugged, Origin::Opened(request)),
                    Err(error) => return Err(at(&format!("make {}", attach.ifname), error)),
                }
            }
        };
        let Plugged { port: device, caps, mac: _, life } = plugged;
        if let Err(NotAdded { why, device }) = self.switch.add_port(port, device) {
            if let Some(device) = device {
                self.give_up(device, origin.request());
            }
            return Err(at("hand the TAP to the switch", why.into()));
        }
        if let Err(error) = self.done(Command::Open { port, caps }) {
            match self.switch.remove_port(port) {
                Ok(Some(device)) => self.give_up(device, origin.request()),
                Ok(None) => {}
                Err(second) => log::warn!("{port}: cannot take its device back: {second}"),
            }
            return Err(at("open the port", error));
        }
        let attachment = Attachment { name: attach.name.clone(), ifname: attach.ifname.clone(), origin, life };
        Ok((attachment, published))
    }

    /// Takes a reservation back, on the way out of a failure.
    fn unreserve(&self, port: PortId) {
        if let Err(error) = self.switch.apply(Command::Detach { port }) {
            log::warn!("{port}: cannot take its reservation back: {error}");
        }
    }

    /// Gives a device up, on the way out of a failure.
    fn give_up(&mut self, device: S::Port, request: Option<&Request>) {
        if let Err(error) = self.plumber.close(device, request) {
            log::warn!("{error}");
        }
    }

    fn detach(&mut self, name: &str, ifname: Option<&str>) -> Result<Reply, ApiError> {
        let ports: Vec<(PortId, String)> = self
            .attachments
            .iter()
            .filter(|(_, one)| one.name == name && ifname.is_none_or(|ifname| ifname == one.ifname))
            .map(|(port, one)| (*port, one.ifname.clone()))
            .collect();
        if ports.is_empty() {
            let desc = match ifname {
                Some(ifname) if self.attachments.values().any(|one| one.name == name) => {
                    format!("container '{name}' has no device '{ifname}'; see 'ports'")
                }
                Some(_) | None => format!("there is no container '{name}'; see 'ports'"),
            };
            return Err(ApiError::new(Class::Missing, desc));
        }
        let mut detached = Vec::new();
        for (port, ifname) in ports {
            self.remove(port)?;
            log::info!("{name} {ifname}: detached");
            detached.push(ifname);
        }
        Ok(Reply::One(json!({ "detached": detached })))
    }

    /// The port is no more: the loop lets go of its device, the core forgets it, the device is given up.
    fn remove(&mut self, port: PortId) -> Result<(), ApiError> {
        match self.take_out(port)? {
            Some((device, request)) => self.plumber.close(device, request.as_ref()),
            None => Ok(()),
        }
    }

    /// All of [`Calls::remove`] but that the device is given up: that is the caller's to do.
    fn take_out(&mut self, port: PortId) -> Result<Option<Leaving<S::Port>>, ApiError> {
        let device = self.switch.remove_port(port)?;
        match self.switch.apply(Command::Detach { port }) {
            // The loop may have told the core before us.
            Ok(_) | Err(SwitchError::Refused(CommandError::Missing { .. })) => {}
            Err(error) => return Err(error.into()),
        }
        let request = self.attachments.remove(&port).and_then(|attachment| match attachment.origin {
            Origin::Opened(request) => Some(request),
            Origin::Brought(client) => {
                if !self.lives_by(client) {
                    self.bereft.push(client);
                }
                None
            }
        });
        Ok(device.map(|device| (device, request)))
    }

    fn stats(&self) -> Result<Reply, ApiError> {
        let Answer::Stats(stats) = self.switch.query(Query::Stats)? else {
            return Err(unexpected());
        };
        serde_json::to_value(stats).map(Reply::One).map_err(internal)
    }

    fn inspect(&mut self, name: &str) -> Result<Reply, ApiError> {
        let Answer::Ports(ports) = self.switch.query(Query::Ports)? else {
            return Err(unexpected());
        };
        let Answer::Networks(networks) = self.switch.query(Query::Networks)? else {
            return Err(unexpected());
        };
        let Answer::Published(published) = self.switch.query(Query::Published)? else {
            return Err(unexpected());
        };
        if ports.iter().any(|port| port.name == name) {
            let mut devices = Vec::new();
            for port in ports.iter().filter(|port| port.name == name) {
                let mut device = serde_json::to_value(port).map_err(internal)?;
                let attachment = self.attachments.get(&port.port);
                if let Some(attachment) = attachment {
                    device["origin"] = attachment.origin.to_string().into();
                }
                let link = match attachment.map(|one| &one.origin) {
                    Some(Origin::Opened(request)) => Some(self.plumber.stats(request)),
                    Some(Origin::Brought(_)) => None,
                    // Only the uplink has a device that no call opened.
                    None => self.plumber.uplink_stats(),
                };
                // The rest is worth telling without the kernel's counters, too.
                match link {
                    Some(Ok(stats)) => device["link"] = serde_json::to_value(stats).map_err(internal)?,
                    Some(Err(error)) => device["link"] = json!({ "error": error.desc }),
                    None => {}
                }
                devices.push(device);
            }
            let published: Vec<_> = published.iter().filter(|one| one.name == name).collect();
            Ok(Reply::One(json!({ "container": name, "ports": devices, "published": published })))
        } else if let Some(network) = networks.iter().find(|network| network.name == name) {
            let members: Vec<_> = ports.iter().filter(|port| port.network.as_deref() == Some(name)).collect();
            Ok(Reply::One(json!({ "network": network, "ports": members })))
        } else {
            Err(ApiError::new(
                Class::Missing,
                format!("there is no container and no network '{name}'; see 'ports' and 'network-list'"),
            ))
        }
    }

    /// The ports attached since the last call, whose lives are to be watched.
    pub fn take_new(&mut self) -> Vec<PortId> {
        std::mem::take(&mut self.new)
    }

    /// Clients whose last port was taken away since the last call, and not by themselves.
    pub fn take_bereft(&mut self) -> Vec<ClientId> {
        let mut bereft = std::mem::take(&mut self.bereft);
        bereft.retain(|client| !self.lives_by(*client));
        bereft
    }

    /// What becomes readable when the life of this port ends.
    pub fn life_fd(&self, port: PortId) -> Option<BorrowedFd<'_>> {
        self.attachments.get(&port)?.life.fd()
    }

    /// Is there a life that has to be looked at regularly?
    pub fn needs_checks(&self) -> bool {
        self.attachments.values().any(|one| one.life.needs_checks())
    }

    /// Detaches every port whose life is over.
    pub fn check_lives(&mut self) {
        let over: Vec<_> = self.attachments.iter().filter_map(|(port, one)| Some((*port, one.life.check()?))).collect();
        for (port, gone) in over {
            self.end(port, &gone.to_string());
        }
    }

    /// Detaches `port` because its device is no more.
    pub fn port_gone(&mut self, port: PortId) {
        self.end(port, "its device was deleted");
    }

    /// Detaches the ports whose devices `client` brought.
    pub fn client_gone(&mut self, client: ClientId) {
        let ports: Vec<_> =
            self.attachments.iter().filter(|(_, one)| one.origin.is_of(client)).map(|(port, _)| *port).collect();
        for port in ports {
            self.end(port, "the connection that brought its TAP is closed");
        }
    }

    /// Does a port live by the connection of `client`?
    pub fn lives_by(&self, client: ClientId) -> bool {
        self.attachments.values().any(|one| one.origin.is_of(client))
    }

    fn end(&mut self, port: PortId, why: &str) {
        let Some(one) = self.attachments.get(&port) else {
            return;
        };
        log::info!("{} {}: {why}; detached", one.name, one.ifname);
        if let Err(error) = self.remove(port) {
            log::warn!("{port}: cannot be detached: {error}");
        }
    }

    /// Detaches everything and ends the switch.
    pub fn shutdown(mut self) -> Result<(), ApiError> {
        let mut devices = Vec::new();
        for port in self.attachments.keys().copied().collect::<Vec<_>>() {
            match self.take_out(port) {
                Ok(device) => devices.extend(device),
                Err(error) => log::warn!("{port}: cannot be detached: {error}"),
            }
        }
        self.plumber.close_all(devices);
        Ok(self.switch.shutdown()?)
    }
}

impl Origin {
    fn request(&self) -> Option<&Request> {
        match self {
            Origin::Opened(request) => Some(request),
            Origin::Brought(_) => None,
        }
    }

    fn is_of(&self, client: ClientId) -> bool {
        match self {
            Origin::Opened(_) => false,
            Origin::Brought(owner) => *owner == client,
        }
    }
}

impl std::fmt::Display for Origin {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Origin::Opened(request) => match &request.target {
                Target::Here => f.write_str("own namespace"),
                Target::Path(path) => write!(f, "netns {}", path.display()),
                Target::Pid(pid) => write!(f, "pid {pid}"),
            },
            Origin::Brought(_) => f.write_str("file descriptor"),
        }
    }
}

/// A device, or where to make it.
enum Supply<P> {
    Brought(Plugged<P>),
    Wanted(Target),
}

/// Where the device is, or is to be.
enum Place {
    In(Target),
    Brought(OwnedFd),
}

fn place(attach: &Attach, fds: &mut VecDeque<OwnedFd>) -> Result<Place, ApiError> {
    let refuse = |why| Err(ApiError::new(Class::Arguments, format!("attach: {why}")));
    match (&attach.netns, attach.pid, attach.tap_fd) {
        (Some(path), None, false) if path.is_absolute() => Ok(Place::In(Target::Path(path.clone()))),
        (Some(_), None, false) => refuse("netns: give an absolute path; the switch's directory is not yours"),
        (None, Some(pid), false) if pid > 0 => Ok(Place::In(Target::Pid(pid))),
        (None, Some(_), false) => refuse("pid: give a process id above 0"),
        (None, None, true) => match fds.pop_front() {
            Some(fd) => Ok(Place::Brought(fd)),
            None => refuse("tap_fd: no file descriptor came with the request; send one with SCM_RIGHTS"),
        },
        _ => refuse("give exactly one of netns, pid and tap_fd"),
    }
}

/// How the device is to be: as the core has it.
fn request(target: Target, attach: &Attach, endpoint: &Endpoint, with_route: bool) -> Request {
    let config = Config {
        label: Some(attach.name.clone()),
        mac: Some(endpoint.mac),
        mtu: Some(endpoint.mtu.into()),
        queue_len: None,
        addresses: endpoint.ip.into_iter().collect(),
        routes: Vec::new(),
    };
    Request {
        target,
        kind: Kind::Tap,
        name: attach.ifname.clone(),
        header: Header::Vnet,
        config: match endpoint.gateway.filter(|_| with_route) {
            Some(gateway) => config.with_gateway(gateway),
            None => config,
        },
    }
}

fn expand(specs: &[PortSpec]) -> Result<Vec<PublicationRequest>, ApiError> {
    portspec::expand(specs).map_err(|error| ApiError::new(Class::Arguments, error.to_string()))
}

/// Logs the ports that were ours to choose.
fn tell_chosen(name: &str, asked: &[PortSpec], published: &[PortSpec]) {
    for one in portspec::chosen(asked, published) {
        log::info!("{name}: {}", one.arrow());
    }
}

/// Says at which step an error happened.
fn at(step: &str, error: ApiError) -> ApiError {
    ApiError::new(error.class, format!("cannot {step}: {}", error.desc))
}

/// The file that frames are written to: a file of ours alone, or a pipe that somebody reads.
pub fn capture_file(path: &Path) -> Result<File, ApiError> {
    let refuse = |class, why: String| ApiError::new(class, format!("capture to {}: {why}", path.display()));
    if !path.is_absolute() {
        return Err(refuse(Class::Arguments, "give an absolute path".into()));
    }
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .mode(0o600)
        // A pipe without a reader is refused (ENXIO) instead of waited for.
        .custom_flags((OFlags::NONBLOCK | OFlags::NOCTTY).bits().cast_signed())
        .open(path)
        .map_err(|error| {
            refuse(
                Class::Device,
                format!("cannot open it: {error}; see that its directory is there and may be written to"),
            )
        })?;
    let kind = file.metadata().map_err(|error| refuse(Class::Device, error.to_string()))?.file_type();
    if kind.is_file() {
        file.set_len(0).map_err(|error| refuse(Class::Device, error.to_string()))?;
    } else if !kind.is_fifo() {
        return Err(refuse(Class::Invalid, "it is neither a file nor a pipe; give another path".into()));
    }
    Ok(file)
}
