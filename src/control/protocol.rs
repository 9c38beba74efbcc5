//! The calls of the API, as they travel.
//!
//! # Theory of operation
//! One request is one line of JSON, and so is its response; requests of one connection are answered in order:
//!
//! ```text
//! -> {"execute": "detach", "arguments": {"name": "c1"}, "id": 7}
//! <- {"return": {"detached": ["eth0"]}, "id": 7}
//! <- {"error": {"class": "Missing", "desc": "there is no container 'c1'"}, "id": 7}
//! ```
//!
//! `arguments` may be left out where none is needed; `id` may be anything and is echoed. What is not known is refused,
//! never ignored. A listing returns an array; if it breaks off half-way, the response has both `return` and `error`.
//!
//! A file descriptor travels as SCM_RIGHTS with the bytes of the request that uses it.

use std::path::PathBuf;
use std::time::Duration;

use serde::de::Error as _;
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_json::Value;

use super::portspec::PortSpec;
use crate::core::command::{CommandError, Guard, MacChoice, NetworkConfig, StaticRule, Transport};
use crate::core::socket::Failure;
use crate::io::enter;
use crate::io::switch::SwitchError;
use crate::wire::addr::{Addr, Cidr};
use crate::wire::mac::Mac;

/// Bytes of a request without its newline.
pub const MAX_REQUEST: usize = 1024 * 1024;

macro_rules! calls {
    ($($(#[$doc:meta])* $name:literal $variant:ident($arguments:ty),)*) => {
        /// A call with its arguments.
        #[derive(Clone, Debug, PartialEq)]
        pub enum Call {
            $($(#[$doc])* $variant($arguments),)*
        }

        impl Call {
            /// The name of every call.
            pub const NAMES: &'static [&'static str] = &[$($name),*];

            /// What `execute` says.
            pub fn name(&self) -> &'static str {
                match self { $(Call::$variant(_) => $name,)* }
            }

            fn parse(name: &str, arguments: Value) -> Result<Call, ApiError> {
                match name {
                    $($name => serde_path_to_error::deserialize(arguments)
                        .map(Call::$variant)
                        .map_err(|error| wrong_argument(name, &error)),)*
                    _ => Err(ApiError::new(
                        Class::UnknownCall,
                        format!("there is no call '{name}'; there are: {}", Call::NAMES.join(", ")),
                    )),
                }
            }

            fn arguments(&self) -> serde_json::Result<Value> {
                match self { $(Call::$variant(arguments) => serde_json::to_value(arguments),)* }
            }
        }
    };
}

calls! {
    /// Makes a network.
    "network-add" NetworkAdd(NetworkSpec),
    /// Removes one without endpoints.
    "network-remove" NetworkRemove(Named),
    /// Lists networks.
    "network-list" NetworkList(Nothing),
    /// Gives a container a port.
    "attach" Attach(Attach),
    /// Takes ports away from a container.
    "detach" Detach(Detach),
    /// Publishes ports of a container.
    "publish" Publish(Publish),
    /// Withdraws published ports.
    "unpublish" Unpublish(Unpublish),
    /// Lists ports of the switch.
    "ports" Ports(Nothing),
    /// Lists published ports.
    "published" Published(Nothing),
    /// Lists learned stations.
    "fdb" Fdb(Nothing),
    /// Lists tracked flows.
    "flows" Flows(Nothing),
    /// Lists the routing table.
    "routes" Routes(Nothing),
    /// Lists neighbours of the gateways.
    "neighbours" Neighbours(Nothing),
    /// Counters of the whole.
    "stats" Stats(Nothing),
    /// All about one container or network.
    "inspect" Inspect(Named),
    /// Adds a static translation rule.
    "rule-add" RuleAdd(Rule),
    /// Removes it.
    "rule-remove" RuleRemove(Rule),
    /// Lists static rules.
    "rule-list" RuleList(Nothing),
    /// Routes a destination by the uplink.
    "route-add" RouteAdd(Route),
    /// Removes that route.
    "route-remove" RouteRemove(Route),
    /// Drops flows.
    "flush-flows" FlushFlows(FlushFlows),
    /// Which pontoon this is.
    "version" Version(Nothing),
    /// Writes every frame to a file.
    "capture-start" CaptureStart(CaptureStart),
    /// Ends that.
    "capture-stop" CaptureStop(Nothing),
    /// Says more, or less, on standard error.
    "log-level" LogLevel(LogLevel),
    /// Ends the switch.
    "shutdown" Shutdown(Nothing),
}

/// A request as it travels.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Envelope {
    execute: String,
    #[serde(default)]
    arguments: Option<Value>,
    #[serde(default)]
    id: Option<Value>,
}

/// A request, as far as it could be read.
#[derive(Debug)]
pub struct Request {
    /// To be echoed.
    pub id: Option<Value>,
    /// What is asked for.
    pub call: Result<Call, ApiError>,
}

impl Request {
    /// Reads one line.
    pub fn parse(line: &[u8]) -> Request {
        match serde_json::from_slice::<Envelope>(line) {
            Err(error) => Request {
                id: None,
                call: Err(ApiError::new(
                    Class::Syntax,
                    format!("not a request: {error}; one line of JSON is wanted, as {{\"execute\":\"version\"}}"),
                )),
            },
            Ok(Envelope { execute, arguments, id }) => {
                let arguments = arguments.unwrap_or_else(|| Value::Object(serde_json::Map::new()));
                Request { id, call: Call::parse(&execute, arguments) }
            }
        }
    }
}

impl Call {
    /// The line that asks for this call, without its newline.
    pub fn to_line(&self) -> serde_json::Result<String> {
        let mut request = serde_json::Map::new();
        request.insert("execute".into(), self.name().into());
        let arguments = self.arguments()?;
        if arguments.as_object().is_none_or(|arguments| !arguments.is_empty()) {
            request.insert("arguments".into(), arguments);
        }
        serde_json::to_string(&request)
    }
}

/// Names the argument, unless it is all of them together that is wrong.
fn wrong_argument(call: &str, error: &serde_path_to_error::Error<serde_json::Error>) -> ApiError {
    let (path, why) = (error.path(), error.inner());
    let desc = match path.iter().next() {
        Some(_) => format!("{call}: {path}: {why}"),
        None => format!("{call}: {why}"),
    };
    ApiError::new(Class::Arguments, desc)
}

/// What somebody called something may have line breaks and other control characters in it.
fn one_line(text: String) -> String {
    if !text.contains(char::is_control) {
        return text;
    }
    text.chars().map(|c| if c.is_control() { c.escape_default().to_string() } else { c.to_string() }).collect()
}

/// Why a call failed. `desc` is one line: what failed, on what, why, and what to do.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize, thiserror::Error)]
#[error("{desc}")]
pub struct ApiError {
    pub class: Class,
    pub desc: String,
}

/// The kind of an error, for programs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub enum Class {
    /// The line is not a request.
    Syntax,
    /// There is no such call.
    UnknownCall,
    /// The call has no such argument, or the argument no such value.
    Arguments,
    /// A value that does not fit the others or the state.
    Invalid,
    /// It exists already.
    Exists,
    /// It does not exist.
    Missing,
    /// It is in use.
    Busy,
    /// The port to be published belongs to a container or a program of the host, or none of several is free.
    PortAllocated,
    /// A limit is reached, or descriptors are used up.
    Full,
    /// No right to enter the namespace or to make a device there, or to a port of the host.
    Forbidden,
    /// A device, a file or a port of the host could not be opened or configured.
    Device,
    /// The event loop, or a namespace, gave no answer in time.
    Timeout,
    /// pontoon itself is out of order.
    Internal,
}

impl Class {
    /// Every class, for the documentation.
    pub const ALL: &'static [Class] = &[
        Class::Syntax,
        Class::UnknownCall,
        Class::Arguments,
        Class::Invalid,
        Class::Exists,
        Class::Missing,
        Class::Busy,
        Class::PortAllocated,
        Class::Full,
        Class::Forbidden,
        Class::Device,
        Class::Timeout,
        Class::Internal,
    ];
}

impl ApiError {
    /// An error of `class`.
    pub fn new(class: Class, desc: impl Into<String>) -> ApiError {
        ApiError { class, desc: one_line(desc.into()) }
    }
}

impl From<CommandError> for ApiError {
    fn from(error: CommandError) -> ApiError {
        let class = match &error {
            CommandError::Invalid { .. } => Class::Invalid,
            CommandError::Exists { .. } => Class::Exists,
            CommandError::Missing { .. } => Class::Missing,
            CommandError::Busy { .. } => Class::Busy,
            CommandError::PortAllocated { .. } | CommandError::NoFreePort { .. } => Class::PortAllocated,
            CommandError::Full { .. } => Class::Full,
            CommandError::Bind { failure, .. } => match failure {
                Failure::InUse => Class::PortAllocated,
                Failure::Prohibited => Class::Forbidden,
                Failure::NoAddress => Class::Invalid,
                Failure::NoFiles | Failure::NoMemory => Class::Full,
                _ => Class::Device,
            },
        };
        ApiError::new(class, error.to_string())
    }
}

impl From<SwitchError> for ApiError {
    fn from(error: SwitchError) -> ApiError {
        let class = match error {
            SwitchError::Refused(error) => return error.into(),
            SwitchError::Failed { .. } => Class::Device,
            SwitchError::Silent => Class::Timeout,
            SwitchError::Ended => Class::Internal,
        };
        ApiError::new(class, error.to_string())
    }
}

impl From<enter::EnterError> for ApiError {
    fn from(error: enter::EnterError) -> ApiError {
        let class = match error.class {
            enter::Class::Invalid => Class::Invalid,
            enter::Class::NoTarget => Class::Missing,
            enter::Class::Forbidden => Class::Forbidden,
            enter::Class::Taken => Class::Busy,
            enter::Class::Device | enter::Class::Config => Class::Device,
            enter::Class::Full => Class::Full,
            enter::Class::TimedOut => Class::Timeout,
            enter::Class::Helper => Class::Internal,
        };
        ApiError::new(class, error.text)
    }
}

/// No arguments.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Nothing {}

/// A network or a container by its name.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Named {
    pub name: String,
}

/// An address, or `none`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Gateway {
    None,
    At(Addr),
}

impl std::str::FromStr for Gateway {
    type Err = String;

    fn from_str(text: &str) -> Result<Gateway, String> {
        match text {
            "none" => Ok(Gateway::None),
            text => Addr::parse(text).map(Gateway::At).map_err(|error| format!("'{text}' is {error}, and not 'none'")),
        }
    }
}

impl Serialize for Gateway {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Gateway::None => serializer.serialize_str("none"),
            Gateway::At(address) => address.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for Gateway {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Gateway, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A network, as asked for on the socket and in the configuration file; what is left out has docker0's value.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NetworkSpec {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<Cidr>,
    /// Left out: the first address of the subnet.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub gateway: Option<Gateway>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mtu: Option<u16>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub internal: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub icc: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub masquerade: Option<bool>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub guard: Option<Guard>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ageing_seconds: Option<u64>,
    /// Frames per second.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub flood_rate: Option<u32>,
}

impl NetworkSpec {
    /// A network of which only the name is said.
    pub fn named(name: impl Into<String>) -> NetworkSpec {
        NetworkSpec {
            name: name.into(),
            subnet: None,
            gateway: None,
            mtu: None,
            internal: None,
            icc: None,
            masquerade: None,
            guard: None,
            ageing_seconds: None,
            flood_rate: None,
        }
    }

    /// What the core is asked for; the core judges it.
    pub fn config(self) -> NetworkConfig {
        let NetworkSpec { name, subnet, gateway, mtu, internal, icc, masquerade, guard, ageing_seconds, flood_rate } =
            self;
        let default = NetworkConfig::named(&name);
        NetworkConfig {
            name,
            subnet,
            gateway: match gateway {
                Some(Gateway::None) => None,
                Some(Gateway::At(address)) => Some(address),
                None => subnet.and_then(first_address),
            },
            mtu: mtu.unwrap_or(default.mtu),
            internal: internal.unwrap_or(default.internal),
            icc: icc.unwrap_or(default.icc),
            masquerade: masquerade.unwrap_or(default.masquerade),
            guard: guard.unwrap_or(default.guard),
            ageing: ageing_seconds.map_or(default.ageing, Duration::from_secs),
            flood_rate: flood_rate.unwrap_or(default.flood_rate),
        }
    }
}

/// The first address that a station of `subnet` may have.
fn first_address(subnet: Cidr) -> Option<Addr> {
    let first = u32::from_be_bytes(subnet.network().addr().as_v4()?).checked_add(1)?;
    Some(Addr::v4(first.to_be_bytes()))
}

/// `random`, `from-ip` or a MAC address.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct MacSpec(pub MacChoice);

impl std::str::FromStr for MacSpec {
    type Err = String;

    fn from_str(text: &str) -> Result<MacSpec, String> {
        Ok(MacSpec(match text {
            "random" => MacChoice::Random,
            "from-ip" => MacChoice::FromIp,
            text => MacChoice::Given(
                text.parse::<Mac>().map_err(|error| format!("'{text}' is {error}, nor 'random' or 'from-ip'"))?,
            ),
        }))
    }
}

impl Serialize for MacSpec {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            MacChoice::Random => serializer.serialize_str("random"),
            MacChoice::FromIp => serializer.serialize_str("from-ip"),
            MacChoice::Given(mac) => mac.serialize(serializer),
        }
    }
}

impl<'de> Deserialize<'de> for MacSpec {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<MacSpec, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(D::Error::custom)
    }
}

/// A container gets a port. Exactly one of `netns`, `pid` and `tap_fd` says where.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Attach {
    pub name: String,
    #[serde(default = "default_network")]
    pub network: String,
    #[serde(default = "default_ifname")]
    pub ifname: String,
    /// Absolute path of the network namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub netns: Option<PathBuf>,
    /// A process in the network namespace.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pid: Option<i32>,
    /// The descriptor of a TAP comes with the request.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub tap_fd: bool,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ip: Option<Addr>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<MacSpec>,
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub isolated: bool,
    /// Published at once; if that is refused, there is no port either.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub publish: Vec<PortSpec>,
}

/// The network that `switch` makes from its options.
pub const DEFAULT_NETWORK: &str = "default";

fn default_network() -> String {
    DEFAULT_NETWORK.into()
}

fn default_ifname() -> String {
    "eth0".into()
}

/// What an attached container has now.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Attached {
    pub port: u32,
    pub name: String,
    pub network: String,
    pub ifname: String,
    pub ip: Option<Cidr>,
    pub mac: Mac,
    pub gateway: Option<Addr>,
    pub mtu: u16,
    /// What was published, as it was asked for; where the port of the host was ours to choose, each port as it is.
    #[serde(default)]
    pub published: Vec<PortSpec>,
}

/// What was published.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Published {
    /// As in [`Attached`].
    pub published: Vec<PortSpec>,
}

/// Which ports of a container; without `ifname` all.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Detach {
    pub name: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
}

/// Publishes all of `ports` or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Publish {
    pub name: String,
    /// Whose address the connections go to; left out: the container's first.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ifname: Option<String>,
    pub ports: Vec<PortSpec>,
}

/// Withdraws all of `ports` or none.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Unpublish {
    pub name: String,
    pub ports: Vec<PortSpec>,
}

/// A static rule: one of the three.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase", try_from = "Kinds")]
pub enum Rule {
    Dnat(Dnat),
    Snat(Snat),
    NoNat(NoNat),
}

/// A rule as it is read: serde's own words for none of an enum's variants, or two, name none of them.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Kinds {
    dnat: Option<Dnat>,
    snat: Option<Snat>,
    nonat: Option<NoNat>,
}

impl TryFrom<Kinds> for Rule {
    type Error = &'static str;

    fn try_from(kinds: Kinds) -> Result<Rule, &'static str> {
        match kinds {
            Kinds { dnat: Some(dnat), snat: None, nonat: None } => Ok(Rule::Dnat(dnat)),
            Kinds { dnat: None, snat: Some(snat), nonat: None } => Ok(Rule::Snat(snat)),
            Kinds { dnat: None, snat: None, nonat: Some(nonat) } => Ok(Rule::NoNat(nonat)),
            _ => Err("give exactly one of dnat, snat and nonat"),
        }
    }
}

/// New flows to `dst:port` go to `to:to_port` instead.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Dnat {
    pub proto: Transport,
    pub dst: Addr,
    pub port: u16,
    pub to: Addr,
    pub to_port: u16,
}

/// New flows from `source` leave the uplink as `to`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Snat {
    pub source: Cidr,
    pub to: Addr,
}

/// Flows to `dst` keep their source.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NoNat {
    pub dst: Cidr,
}

impl From<Rule> for StaticRule {
    fn from(rule: Rule) -> StaticRule {
        match rule {
            Rule::Dnat(Dnat { proto, dst, port, to, to_port }) => StaticRule::Dnat { proto, dst, port, to, to_port },
            Rule::Snat(Snat { source, to }) => StaticRule::Snat { source, to },
            Rule::NoNat(NoNat { dst }) => StaticRule::NoNat { dst },
        }
    }
}

/// A destination behind the uplink.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Route {
    pub dst: Cidr,
}

/// Whose flows; without `name` all.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FlushFlows {
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
}

/// Where frames are written to.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct CaptureStart {
    /// Absolute; a file that is there is written over.
    pub path: PathBuf,
}

/// How much is said.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct LogLevel {
    pub level: Level,
}

/// From nothing to everything.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize, clap::ValueEnum)]
#[serde(rename_all = "lowercase")]
pub enum Level {
    Off,
    Error,
    Warn,
    #[default]
    Info,
    Debug,
    Trace,
}

impl From<Level> for log::LevelFilter {
    fn from(level: Level) -> log::LevelFilter {
        match level {
            Level::Off => log::LevelFilter::Off,
            Level::Error => log::LevelFilter::Error,
            Level::Warn => log::LevelFilter::Warn,
            Level::Info => log::LevelFilter::Info,
            Level::Debug => log::LevelFilter::Debug,
            Level::Trace => log::LevelFilter::Trace,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    use crate::core::counters::DropReason;

    fn parsed(line: &str) -> Result<Call, ApiError> {
        Request::parse(line.as_bytes()).call
    }

    fn class(line: &str) -> Class {
        parsed(line).expect_err(line).class
    }

    #[test]
    fn an_error_is_one_line_whatever_it_quotes() {
        let error = ApiError::new(Class::Invalid, "name: 'x\ny\u{1b}[2Jé': no");
        assert_eq!(error.desc, "name: 'x\\ny\\u{1b}[2Jé': no");
    }

    #[test]
    fn a_call_survives_being_written_and_read() {
        for line in [
            r#"{"execute":"version"}"#,
            r#"{"execute":"attach","arguments":{"name":"c1","netns":"/run/netns/c1","ip":"172.17.0.9","mac":"from-ip","publish":["8080:80"]}}"#,
            r#"{"execute":"network-add","arguments":{"name":"n","subnet":"10.1.0.0/24","gateway":"none","guard":"strict"}}"#,
            r#"{"execute":"rule-add","arguments":{"nonat":{"dst":"198.51.100.0/24"}}}"#,
            r#"{"execute":"log-level","arguments":{"level":"debug"}}"#,
        ] {
            let call = parsed(line).expect(line);
            assert_eq!(parsed(&call.to_line().expect("JSON")).expect("our own"), call);
        }
    }

    #[test]
    fn what_is_not_a_request_is_called_so() {
        assert_eq!(class("hello"), Class::Syntax);
        assert_eq!(class(""), Class::Syntax);
        assert_eq!(class("[1]"), Class::Syntax);
        assert_eq!(class(r#"{"arguments":{}}"#), Class::Syntax);
        assert_eq!(class(r#"{"execute":"version","argument":{}}"#), Class::Syntax);
        assert_eq!(class("\u{feff}{}"), Class::Syntax);
        assert_eq!(class(&"[".repeat(100_000)), Class::Syntax);
    }

    #[test]
    fn an_unknown_call_is_told_the_known_ones() {
        let error = parsed(r#"{"execute":"attch"}"#).expect_err("a slip");
        assert_eq!(error.class, Class::UnknownCall);
        assert!(error.desc.contains("'attch'") && error.desc.contains("attach,"), "{error}");
    }

    #[test]
    fn an_unknown_or_wrong_argument_is_refused_by_name() {
        for (line, says) in [
            (r#"{"execute":"detach","arguments":{"name":"c","iface":"e"}}"#, "iface"),
            (r#"{"execute":"detach"}"#, "name"),
            (r#"{"execute":"version","arguments":{"verbose":1}}"#, "verbose"),
            (r#"{"execute":"network-add","arguments":{"name":"n","subnet":"10.0.0/8"}}"#, "'10.0.0/8' is not a prefix"),
            (
                r#"{"execute":"network-add","arguments":{"name":"n","mtu":70000}}"#,
                "network-add: mtu: invalid value: integer `70000`",
            ),
            (r#"{"execute":"attach","arguments":{"name":"c","pid":"1"}}"#, "attach: pid: invalid type: string"),
            (
                r#"{"execute":"publish","arguments":{"name":"c","ports":["80","80:"]}}"#,
                "publish: ports[1]: '80:' is no published port",
            ),
            (r#"{"execute":"detach","arguments":[]}"#, "detach: "),
            (r#"{"execute":"rule-add","arguments":{"masq":{}}}"#, "`dnat`, `snat`"),
            (r#"{"execute":"rule-add"}"#, "rule-add: give exactly one of dnat, snat and nonat"),
            (
                r#"{"execute":"rule-add","arguments":{"nonat":{"dst":"198.51.100.0/24"},"snat":{"source":"172.17.0.0/16","to":"192.0.2.1"}}}"#,
                "exactly one of dnat, snat and nonat",
            ),
            (
                r#"{"execute":"rule-add","arguments":{"nonat":{"dst":"198.51.100"}}}"#,
                "rule-add: nonat.dst: '198.51.100'",
            ),
        ] {
            let error = parsed(line).expect_err(line);
            assert_eq!(error.class, Class::Arguments, "{line}");
            assert!(error.desc.contains(says), "{line}: {error}");
        }
    }

    #[test]
    fn the_id_comes_back_even_if_the_call_is_unknown() {
        let request = Request::parse(br#"{"execute":"nothing","id":[1,"a"]}"#);
        assert_eq!(request.id, Some(serde_json::json!([1, "a"])));
        assert!(request.call.is_err());
    }

    #[test]
    fn a_network_without_a_gateway_gets_the_first_address_of_its_subnet() {
        let mut spec = NetworkSpec::named("n");
        assert_eq!(spec.clone().config(), NetworkConfig::named("n"));
        spec.subnet = "10.1.2.0/24".parse().ok();
        assert_eq!(spec.clone().config().gateway, "10.1.2.1".parse().ok());
        spec.gateway = Some(Gateway::None);
        assert_eq!(spec.config().gateway, None);
    }

    const DOCUMENTATION: &str = include_str!("../../docs/control-api.md");

    /// The calls that have a section, and the lines of JSON in each.
    fn documented() -> Vec<(&'static str, Vec<&'static str>)> {
        let mut calls: Vec<(&str, Vec<&str>)> = Vec::new();
        for line in DOCUMENTATION.lines() {
            if let Some(name) = line.strip_prefix("### ") {
                calls.push((name, Vec::new()));
            } else if let (true, Some(call)) = (line.starts_with('{'), calls.last_mut()) {
                call.1.push(line);
            }
        }
        calls
    }

    #[test]
    fn every_call_is_documented_once_and_nothing_else_is() {
        let mut names: Vec<_> = documented().into_iter().map(|(name, _)| name).collect();
        let mut calls = Call::NAMES.to_vec();
        names.sort_unstable();
        calls.sort_unstable();
        assert_eq!(names, calls);
    }

    #[test]
    fn every_documented_example_is_a_request_for_its_call() {
        for (name, examples) in documented() {
            assert!(!examples.is_empty(), "{name} has no example");
            for example in examples {
                assert_eq!(parsed(example).expect(example).name(), name);
            }
        }
    }

    #[test]
    fn every_class_of_error_is_documented() {
        for class in Class::ALL {
            assert!(DOCUMENTATION.contains(&format!("| `{class:?}` |")), "{class:?}");
        }
    }

    #[test]
    fn every_reason_of_a_drop_is_documented_with_its_meaning_and_nothing_else_is() {
        let (_, section) = DOCUMENTATION.split_once("## Why frames are dropped\n").expect("the page tells why");
        let documented: Vec<_> = section.lines().filter(|line| line.starts_with("| `")).collect();
        let reasons = DropReason::ALL.iter().map(|why| format!("| `{}` | {} |", why.name(), why.meaning()));
        assert_eq!(documented, reasons.collect::<Vec<_>>());
    }
}
