//! The other end of the socket: one call at a time, listings row by row. A switch that stands still is not waited for longer
//! than [`PATIENCE`].

use std::fmt;
use std::io::{self, BufReader, Read};
use std::os::fd::BorrowedFd;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::net::sockopt::{Timeout, set_socket_timeout};
use rustix::net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType};
use serde::de::{DeserializeSeed, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use super::protocol::{ApiError, Call};
use crate::io::sys::msg;

/// How long a switch may say nothing: longer than its own limits for the loop and the helper together, so that it can tell
/// itself which of them it was.
pub const PATIENCE: Duration = Duration::from_secs(15);

/// A connection to a switch.
#[derive(Debug)]
pub struct Client {
    reader: BufReader<UnixStream>,
    path: PathBuf,
    patience: Duration,
}

/// Why a call came to nothing.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    #[error(
        "cannot reach the switch at {path}: {why}; start one with 'pontoon switch', or name its socket with --control"
    )]
    Unreachable { path: PathBuf, why: io::Error },
    #[error("the connection to the switch at {path} broke: {why}; see what the switch said")]
    Broken { path: PathBuf, why: io::Error },
    #[error(
        "the switch at {path} has said nothing for {} s; see whether its process is stopped (kill -CONT lets it go on) or \
         end it, and start it again", patience.as_secs()
    )]
    Silent { path: PathBuf, patience: Duration },
    #[error(transparent)]
    Refused(#[from] ApiError),
    /// What the caller does with a row failed.
    #[error("cannot write: {0}")]
    Sink(io::Error),
}

impl Client {
    /// Connects.
    pub fn connect(path: &Path) -> Result<Client, ClientError> {
        Self::connect_with(path, PATIENCE)
    }

    fn connect_with(path: &Path, patience: Duration) -> Result<Client, ClientError> {
        let dial = || -> io::Result<UnixStream> {
            let socket = rustix::net::socket_with(AddressFamily::UNIX, SocketType::STREAM, SocketFlags::CLOEXEC, None)?;
            // Of sending is also how long connect(2) waits where too many are waiting already.
            set_socket_timeout(&socket, Timeout::Send, Some(patience))?;
            set_socket_timeout(&socket, Timeout::Recv, Some(patience))?;
            rustix::net::connect(&socket, &SocketAddrUnix::new(path)?)?;
            Ok(socket.into())
        };
        match dial() {
            Ok(stream) => Ok(Client { reader: BufReader::new(stream), path: path.into(), patience }),
            Err(why) if why.kind() == io::ErrorKind::WouldBlock => {
                Err(ClientError::Silent { path: path.into(), patience })
            }
            Err(why) => Err(ClientError::Unreachable { path: path.into(), why }),
        }
    }

    fn broken(&self) -> impl Fn(io::Error) -> ClientError + use<> {
        let (path, patience) = (self.path.clone(), self.patience);
        move |why| match why.kind() {
            io::ErrorKind::WouldBlock => ClientError::Silent { path: path.clone(), patience },
            _ => ClientError::Broken { path: path.clone(), why },
        }
    }

    /// Makes a call that returns one thing.
    pub fn call(&mut self, call: &Call) -> Result<Value, ClientError> {
        self.send(call, &[])?;
        self.receive(&mut |_| Ok(()))
    }

    /// Makes a call that needs a file descriptor.
    pub fn call_with(&mut self, call: &Call, fd: BorrowedFd<'_>) -> Result<Value, ClientError> {
        self.send(call, &[fd])?;
        self.receive(&mut |_| Ok(()))
    }

    /// Makes a call that returns a listing, and gives each row to `sink` as it comes.
    pub fn list(&mut self, call: &Call, sink: &mut dyn FnMut(Value) -> io::Result<()>) -> Result<(), ClientError> {
        self.send(call, &[])?;
        self.receive(sink)?;
        Ok(())
    }

    /// Waits until the switch closes the connection, for as long as it takes.
    pub fn wait_for_end(&mut self) -> io::Result<()> {
        self.reader.get_ref().set_read_timeout(None)?;
        io::copy(&mut self.reader, &mut io::sink()).map(|_| ())
    }

    /// As [`Client::wait_for_end`], of a switch that is about to end.
    pub fn wait_for_end_within(&mut self, at_most: Duration) -> Result<(), ClientError> {
        self.patience = at_most;
        let broken = self.broken();
        self.reader.get_ref().set_read_timeout(Some(at_most)).map_err(&broken)?;
        io::copy(&mut self.reader, &mut io::sink()).map(drop).map_err(broken)
    }

    fn send(&mut self, call: &Call, fds: &[BorrowedFd<'_>]) -> Result<(), ClientError> {
        let broken = self.broken();
        let mut line = call.to_line().map_err(|error| broken(error.into()))?.into_bytes();
        line.push(b'\n');
        let stream = self.reader.get_ref();
        let mut sent = msg::send(stream, &line, fds).map_err(&broken)?;
        while sent < line.len() {
            sent += msg::send(stream, &line[sent..], &[]).map_err(&broken)?;
        }
        Ok(())
    }

    fn receive(&mut self, sink: &mut dyn FnMut(Value) -> io::Result<()>) -> Result<Value, ClientError> {
        let broken = self.broken();
        let mut failed = None;
        let mut json = serde_json::Deserializer::from_reader(OneLine { reader: &mut self.reader, ended: false });
        let seed = Response { sink, failed: &mut failed };
        let response = seed.deserialize(&mut json);
        if let Some(why) = failed {
            return Err(ClientError::Sink(why));
        }
        match response {
            Ok((_, Some(error))) => Err(error.into()),
            Ok((Some(value), None)) => {
                // The rest of the line is its newline.
                json.end().map_err(|error| broken(error.into()))?;
                Ok(value)
            }
            Ok((None, None)) => Err(broken(io::Error::other("the answer has neither 'return' nor 'error'"))),
            Err(error) => Err(broken(error.into())),
        }
    }
}

/// A reader that ends with the line.
struct OneLine<'a> {
    reader: &'a mut BufReader<UnixStream>,
    ended: bool,
}

impl Read for OneLine<'_> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        use std::io::BufRead;
        if self.ended {
            return Ok(0);
        }
        let available = self.reader.fill_buf()?;
        let len = match available.iter().position(|&byte| byte == b'\n') {
            Some(at) if at < buf.len() => {
                self.ended = true;
                at + 1
            }
            Some(_) | None => available.len().min(buf.len()),
        };
        buf[..len].copy_from_slice(&available[..len]);
        self.reader.consume(len);
        Ok(len)
    }
}

/// Reads a response without holding a listing in memory.
struct Response<'a> {
    sink: &'a mut dyn FnMut(Value) -> io::Result<()>,
    failed: &'a mut Option<io::Error>,
}

impl<'de> DeserializeSeed<'de> for Response<'_> {
    type Value = (Option<Value>, Option<ApiError>);

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_map(self)
    }
}

impl<'de> Visitor<'de> for Response<'_> {
    type Value = (Option<Value>, Option<ApiError>);

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a response")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let (mut value, mut error) = (None, None);
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "return" => {
                    value = Some(map.next_value_seed(Returned { sink: &mut *self.sink, failed: &mut *self.failed })?);
                }
                "error" => error = Some(map.next_value()?),
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok((value, error))
    }
}

/// What is returned: rows of an array go to the sink, anything else is kept.
struct Returned<'a> {
    sink: &'a mut dyn FnMut(Value) -> io::Result<()>,
    failed: &'a mut Option<io::Error>,
}

impl<'de> DeserializeSeed<'de> for Returned<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Returned<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object or an array")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<Value, A::Error> {
        while let Some(row) = rows.next_element::<Value>()? {
            if let Err(error) = (self.sink)(row) {
                *self.failed = Some(error);
                return Err(A::Error::custom("the rows are not taken any more"));
            }
        }
        Ok(Value::Null)
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Value, A::Error> {
        let mut object = serde_json::Map::new();
        while let Some((key, value)) = map.next_entry()? {
            object.insert(key, value);
        }
        Ok(Value::Object(object))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::protocol::Nothing;

    #[test]
    fn a_switch_that_says_nothing_is_not_waited_for() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("control");
        let listener = rustix::net::socket(AddressFamily::UNIX, SocketType::STREAM, None).expect("a socket");
        rustix::net::bind(&listener, &SocketAddrUnix::new(&path).expect("short")).expect("ours");
        rustix::net::listen(&listener, 4).expect("bound");
        // Longer than nothing: a fast switch must not be taken for a silent one.
        let patience = Duration::from_millis(50);
        let mut client = Client::connect_with(&path, patience).expect("the kernel accepts");
        let error = client.call(&Call::Version(Nothing {})).expect_err("nobody answers");
        assert!(matches!(error, ClientError::Silent { .. }), "{error}");
        let said = error.to_string();
        assert!(said.contains("kill -CONT") && !said.contains('\n'), "{said}");
        assert!(matches!(client.wait_for_end_within(patience), Err(ClientError::Silent { .. })));
        // Nor where it cannot even be connected to.
        let crowd: Vec<_> = (0..100).map_while(|_| Client::connect_with(&path, patience).ok()).collect();
        let error = Client::connect_with(&path, patience).expect_err("its backlog is full");
        assert!(matches!(error, ClientError::Silent { .. }), "{error} after {}", crowd.len());
        drop(listener);
    }
}
