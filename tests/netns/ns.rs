//! A network namespace with a name, and what one does inside: commands, sockets, settings.

use std::fs::{self, File};
use std::io::{self, ErrorKind, Read, Write};
use std::net::{SocketAddr, SocketAddrV4, TcpListener, TcpStream, UdpSocket};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::thread;
use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::mount::{UnmountFlags, mount_bind, unmount};
use rustix::net::{AddressFamily, SendFlags, SocketFlags, SocketType, ipproto, sockopt};
use rustix::process::{Pid, PidfdFlags, Signal, kill_process_group, pidfd_open};
use rustix::thread::{LinkNameSpaceType, UnshareFlags, move_into_link_name_space};

use super::packet::Packet;
use super::{raw, sandbox};

/// How long anything that must happen may take. Long beside the microseconds it needs: the machine may be busy with other cases.
pub const SOON: Duration = Duration::from_secs(3);
/// How long we listen before we say that nothing came.
pub const QUIET: Duration = Duration::from_millis(200);

/// A network namespace kept by its name under `/run/netns`, as `ip netns` keeps them; gone with its value.
pub struct Netns {
    name: String,
    path: PathBuf,
    handle: File,
}

impl Netns {
    pub fn new(name: &str) -> Self {
        let path = Path::new("/run/netns").join(name);
        File::create(&path).expect("/run is a tmpfs of our own");
        let made = || -> io::Result<()> {
            raw::unshare(UnshareFlags::NEWNET)?;
            mount_bind("/proc/thread-self/ns/net", &path)?;
            // Nothing may speak unless a case asks it to: no router solicitations, no multicast reports.
            fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1")?;
            fs::write("/proc/sys/net/ipv6/conf/default/disable_ipv6", "1")
        };
        thread::scope(|scope| scope.spawn(made).join())
            .expect("no panic in there")
            .expect("a user may make network namespaces here");
        let handle = File::open(&path).expect("just mounted");
        let netns = Self { name: name.to_owned(), path, handle };
        netns.ip("link set lo up");
        netns
    }

    pub fn name(&self) -> &str {
        &self.name
    }

    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Runs `action` on a thread inside. A socket belongs to the namespace it was made in, so it may be taken out and used anywhere.
    pub fn enter<R: Send>(&self, action: impl FnOnce() -> R + Send) -> R {
        let inside = || {
            move_into_link_name_space(self.handle.as_fd(), Some(LinkNameSpaceType::Network))
                .expect("the namespace is ours");
            action()
        };
        match thread::scope(|scope| scope.spawn(inside).join()) {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        }
    }

    /// Sets `net.<key>`, dots or slashes.
    pub fn sysctl(&self, key: &str, value: &str) {
        let path = format!("/proc/sys/net/{}", key.replace('.', "/"));
        self.enter(|| fs::write(&path, value))
            .unwrap_or_else(|error| panic!("{}: {path} = {value}: {error}", self.name));
    }

    /// Runs lines of `ip`, all of which must succeed.
    pub fn ip(&self, batch: &str) {
        self.run("ip", &["-batch", "-"], batch);
    }

    /// Loads rules in nft's own language.
    pub fn nft(&self, rules: &str) {
        self.run("nft", &["-f", "-"], rules);
    }

    /// Runs a program inside to its end, which must be a success; its output.
    pub fn run(&self, program: &str, arguments: &[&str], input: &str) -> String {
        let mut command = self.command(sandbox::find(program).unwrap_or_else(|| program.into()));
        command.args(arguments);
        run_to_end(command, input)
            .unwrap_or_else(|error| panic!("{}: {program} {arguments:?}: {error}\n{input}", self.name))
    }

    /// A command that will run inside, as the head of a process group, and die with the thread that spawns it.
    pub fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let mut command = Command::new(program);
        command.process_group(0);
        raw::place(&mut command, self.handle.as_fd());
        command
    }

    pub fn udp(&self, address: SocketAddrV4) -> Udp {
        Udp(self.bound(address, UdpSocket::bind))
    }

    pub fn listen(&self, address: SocketAddrV4) -> Listener {
        Listener(self.bound(address, TcpListener::bind))
    }

    /// Binds, and again while the address is in use: between its fork and its exec, a child of another case holds a copy of every descriptor,
    /// so an address lives on for a moment when its socket is dropped.
    fn bound<S: Send>(&self, address: SocketAddrV4, bind: fn(SocketAddrV4) -> io::Result<S>) -> S {
        let deadline = Instant::now() + SOON;
        loop {
            match self.enter(|| bind(address)) {
                Ok(socket) => return socket,
                Err(error) if error.kind() == ErrorKind::AddrInUse && Instant::now() < deadline => {
                    thread::sleep(Duration::from_millis(1))
                }
                Err(error) => panic!("{}: {address}: {error}", self.name),
            }
        }
    }

    /// A TCP connection from `from` (port 0: any) to `to`, tried for `patience`.
    pub fn connect(&self, from: SocketAddrV4, to: SocketAddrV4, patience: Duration) -> io::Result<TcpStream> {
        let socket = self
            .enter(|| rustix::net::socket_with(AddressFamily::INET, SocketType::STREAM, SocketFlags::CLOEXEC, None))?;
        sockopt::set_socket_reuseaddr(&socket, true)?;
        // connect(2) honours the send timeout, and says EINPROGRESS when it is over.
        sockopt::set_socket_timeout(&socket, sockopt::Timeout::Send, Some(patience))?;
        rustix::net::bind(&socket, &SocketAddr::V4(from))?;
        rustix::net::connect(&socket, &SocketAddr::V4(to)).map_err(|errno| match errno {
            rustix::io::Errno::INPROGRESS => io::Error::from(ErrorKind::TimedOut),
            errno => io::Error::from(errno),
        })?;
        let stream = TcpStream::from(socket);
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        Ok(stream)
    }

    /// A raw socket that sends whole IPv4 packets, routed by this namespace: any source, any content.
    pub fn injector(&self) -> Injector {
        let made = self.enter(|| {
            let raw = SocketType::from_raw(libc::SOCK_RAW as u32);
            rustix::net::socket_with(AddressFamily::INET, raw, SocketFlags::CLOEXEC, Some(ipproto::RAW))
        });
        Injector(made.unwrap_or_else(|error| panic!("{}: raw socket: {error}", self.name)))
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        // Without its mount the namespace lives only as long as the descriptors in it: this case's.
        if unmount(&self.path, UnmountFlags::DETACH).is_ok() {
            let _ = fs::remove_file(&self.path);
        }
    }
}

/// Feeds `input` to a program and waits for its end, [`SOON`] at most; its output, or what it complained of.
pub fn run_to_end(mut command: Command, input: &str) -> Result<String, String> {
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|error| error.to_string())?;
    // Input and output are some lines: less than a pipe holds, so neither side can stall the other.
    // A program that reads nothing may close its end early; its exit status says what it made of that.
    let _ = child.stdin.take().expect("piped").write_all(input.as_bytes());
    if !ends_within(&child, SOON) {
        kill_group(&mut child);
        return Err(format!("still running after {SOON:?}"));
    }
    let output = child.wait_with_output().map_err(|error| error.to_string())?;
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        return Err(format!("{}: {}{text}", output.status, String::from_utf8_lossy(&output.stderr)));
    }
    Ok(text)
}

/// Kills a child and all of its group, and waits for it.
pub fn kill_group(child: &mut Child) {
    let _ = kill_process_group(pid(child), Signal::KILL);
    let _ = child.wait();
}

/// Asks a child to end, gives it [`SOON`], and then kills its group.
pub fn terminate(child: &mut Child) {
    let _ = rustix::process::kill_process(pid(child), Signal::TERM);
    ends_within(child, SOON);
    kill_group(child);
}

fn ends_within(child: &Child, patience: Duration) -> bool {
    pidfd_open(pid(child), PidfdFlags::empty()).is_ok_and(|pidfd| readable(&pidfd, patience))
}

fn pid(child: &Child) -> Pid {
    Pid::from_child(child)
}

/// Waits until `fd` has something to read.
pub fn readable(fd: impl AsFd, patience: Duration) -> bool {
    let patience = Timespec::try_from(patience).expect("seconds, not ages");
    poll(&mut [PollFd::new(&fd, PollFlags::IN)], Some(&patience)).is_ok_and(|ready| ready > 0)
}

/// A UDP socket that speaks text.
pub struct Udp(UdpSocket);

impl Udp {
    /// Sends; an error here is one that the network reported for an earlier datagram.
    pub fn send(&self, text: &str, to: SocketAddrV4) -> io::Result<usize> {
        self.0.send_to(text.as_bytes(), to)
    }

    /// From now on hears from `to` only, and of the errors on the way there.
    pub fn connect(&self, to: SocketAddrV4) {
        self.0.connect(to).expect("a route");
    }

    pub fn recv(&self) -> io::Result<(String, SocketAddr)> {
        self.recv_within(SOON)
    }

    pub fn recv_within(&self, patience: Duration) -> io::Result<(String, SocketAddr)> {
        let mut buffer = vec![0; 65_536];
        self.0.set_read_timeout(Some(patience))?;
        let (length, from) = self.0.recv_from(&mut buffer).map_err(timed_out)?;
        Ok((String::from_utf8_lossy(&buffer[..length]).into_owned(), from))
    }

    /// Answers one datagram with its own text; who sent it.
    pub fn echo(&self) -> io::Result<SocketAddr> {
        let (text, from) = self.recv()?;
        self.0.send_to(text.as_bytes(), from)?;
        Ok(from)
    }
}

/// A TCP server's door.
pub struct Listener(TcpListener);

impl Listener {
    pub fn accept(&self) -> io::Result<(TcpStream, SocketAddr)> {
        self.accept_within(SOON)
    }

    pub fn accept_within(&self, patience: Duration) -> io::Result<(TcpStream, SocketAddr)> {
        if !readable(&self.0, patience) {
            return Err(ErrorKind::TimedOut.into());
        }
        let (stream, from) = self.0.accept()?;
        stream.set_read_timeout(Some(SOON))?;
        stream.set_write_timeout(Some(SOON))?;
        Ok((stream, from))
    }
}

/// Says a line on `from`, hears it on `to`: data crosses a connection.
pub fn say(mut from: &TcpStream, mut to: &TcpStream, text: &str) -> io::Result<()> {
    from.write_all(text.as_bytes())?;
    let mut heard = vec![0; text.len()];
    to.read_exact(&mut heard).map_err(timed_out)?;
    assert_eq!(String::from_utf8_lossy(&heard), text, "bytes of a TCP stream");
    Ok(())
}

/// A read timeout is reported as EAGAIN; say what it means.
fn timed_out(error: io::Error) -> io::Error {
    if error.kind() == ErrorKind::WouldBlock { ErrorKind::TimedOut.into() } else { error }
}

/// Sends whole IPv4 packets.
pub struct Injector(OwnedFd);

impl Injector {
    pub fn send(&self, packet: &Packet) {
        let to = SocketAddrV4::new(packet.destination(), 0);
        rustix::net::sendto(&self.0, &packet.bytes(), SendFlags::empty(), &SocketAddr::V4(to))
            .expect("a route to the packet's destination");
    }
}

/// `ErrorKind` or address: what a case notes of a result.
pub fn told<T: ToString>(result: io::Result<T>) -> String {
    match result {
        Ok(value) => value.to_string(),
        Err(error) => match error.kind() {
            ErrorKind::ConnectionRefused => "refused".to_owned(),
            ErrorKind::TimedOut | ErrorKind::WouldBlock => "silence".to_owned(),
            ErrorKind::HostUnreachable => "host unreachable".to_owned(),
            ErrorKind::NetworkUnreachable => "network unreachable".to_owned(),
            _ => error.to_string(),
        },
    }
}
