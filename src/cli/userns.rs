//! Why there is no user namespace, and what cures it.

use std::io;

use rustix::io::Errno;

/// One line: why there is none, what cures it, and `otherwise`, what else the caller of the command can do.
pub fn without(error: &io::Error, otherwise: &str) -> String {
    explain(error, otherwise, |name| {
        let path = format!("/proc/sys/{}", name.replace('.', "/"));
        std::fs::read_to_string(path).ok().map(|value| value.trim().to_owned())
    })
}

/// `sysctl` reads a kernel parameter.
fn explain(error: &io::Error, otherwise: &str, sysctl: impl Fn(&str) -> Option<String>) -> String {
    let switches = [
        ("kernel.unprivileged_userns_clone", "0", "1"),
        ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
        ("user.max_user_namespaces", "0", "15000"),
    ];
    let cure = match switches.into_iter().find(|(name, off, _)| sysctl(name).as_deref() == Some(off)) {
        Some((name, _, on)) => format!("allow them (sysctl -w {name}={on})"),
        // user_namespaces(7): of these there are too many already, here or in a namespace around this one.
        None if Errno::from_io_error(error) == Some(Errno::NOSPC) => {
            "their number is limited: raise it (sysctl -w user.max_user_namespaces=15000)".into()
        }
        None => "a seccomp filter forbids them, as that of a container does: run it outside \
                 (docker: --security-opt seccomp=unconfined --device /dev/net/tun)"
            .into(),
    };
    format!("no user namespace can be made here ({error}): {cure}, or {otherwise}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_switch_that_forbids_them_is_named() {
        let error = io::Error::from_raw_os_error(libc::EPERM);
        let says = |set: &str, value: &str| explain(&error, "be root", |name| (name == set).then(|| value.to_owned()));
        for (name, off, on) in [
            ("kernel.unprivileged_userns_clone", "0", "1"),
            ("kernel.apparmor_restrict_unprivileged_userns", "1", "0"),
            ("user.max_user_namespaces", "0", "15000"),
        ] {
            assert!(says(name, off).contains(&format!("sysctl -w {name}={on}")), "{}", says(name, off));
            assert!(!says(name, on).contains(name), "{}", says(name, on));
        }
        assert!(says("none", "").contains("seccomp") && says("none", "").ends_with(", or be root"));
    }

    #[test]
    fn a_limit_that_is_reached_is_to_be_raised() {
        let error = io::Error::from_raw_os_error(libc::ENOSPC);
        assert!(explain(&error, "", |_| Some("100".into())).contains("user.max_user_namespaces="));
    }
}
