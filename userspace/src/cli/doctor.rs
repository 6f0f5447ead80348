//! Checks of the machine, each with the fix.

use crate::Failure;
use crate::args::Output;
use crate::objects::Names;
use crate::output::{json, table};
use postbox::{ErrorKind, Mailbox};
use rustix::fs::{Access, access, statfs};
use rustix::process::{Resource, getrlimit};
use serde_json::json;
use std::fs;
use std::os::unix::fs::{FileTypeExt, MetadataExt};
use std::process::ExitCode;

#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Status {
    Pass,
    Warn,
    Fail,
}

impl Status {
    fn name(self) -> &'static str {
        match self {
            Status::Pass => "PASS",
            Status::Warn => "WARN",
            Status::Fail => "FAIL",
        }
    }
}

struct Check {
    name: &'static str,
    status: Status,
    found: String,
    fix: String,
}

fn pass(name: &'static str, found: impl Into<String>) -> Check {
    Check {
        name,
        status: Status::Pass,
        found: found.into(),
        fix: String::new(),
    }
}

fn warn(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Check {
    Check {
        name,
        status: Status::Warn,
        found: found.into(),
        fix: fix.into(),
    }
}

fn fail(name: &'static str, found: impl Into<String>, fix: impl Into<String>) -> Check {
    Check {
        name,
        status: Status::Fail,
        found: found.into(),
        fix: fix.into(),
    }
}

pub fn doctor(output: &Output) -> Result<ExitCode, Failure> {
    let mut checks = vec![module(), device()];
    match postbox::version() {
        Ok(version) => {
            checks.push(pass(
                "abi",
                format!("{}, as this command needs", version.abi),
            ));
            checks.push(quota());
            checks.push(round_trip());
        }
        // The checks above say why.
        Err(error) if matches!(error.kind, ErrorKind::ModuleMissing | ErrorKind::Denied) => {}
        Err(error) => checks.push(fail(
            "abi",
            error.to_string(),
            "install module and command from the same release",
        )),
    }
    checks.extend([files(), memory(), io_uring(), debugfs()]);

    let worst = checks
        .iter()
        .map(|check| check.status)
        .max()
        .unwrap_or(Status::Pass);
    if output.json {
        let check = |check: &Check| json!({ "check": check.name, "status": check.status.name(), "found": check.found, "fix": check.fix });
        json("checks", checks.iter().map(check).collect::<Vec<_>>())?;
    } else {
        let rows = |check: &Check| {
            let (status, name) = (check.status.name().into(), check.name.into());
            let mut rows = vec![vec![status, name, check.found.clone()]];
            if output.plain {
                rows[0].push(check.fix.clone());
            } else if !check.fix.is_empty() {
                // On a line of its own: it is for reading and for copying.
                let fix = format!("fix: {}", check.fix);
                rows.push(vec![String::new(), String::new(), fix]);
            }
            rows
        };
        let columns = if output.plain { 4 } else { 3 };
        let heading = &["STATUS", "CHECK", "FOUND", "FIX"][..columns];
        table(
            output,
            heading,
            &checks.iter().flat_map(rows).collect::<Vec<_>>(),
        )?;
    }
    Ok(ExitCode::from(worst as u8))
}

fn read(path: &str) -> Option<String> {
    fs::read_to_string(path)
        .ok()
        .map(|text| text.trim().to_owned())
}

fn module() -> Check {
    if !fs::exists("/sys/module/postbox").unwrap_or(false) {
        return fail(
            "module",
            "postbox is not loaded",
            "sudo modprobe postbox, or sudo insmod postbox.ko where it was built",
        );
    }
    let version = read("/sys/module/postbox/version")
        .map_or(String::new(), |version| format!(", version {version}"));
    pass("module", format!("postbox is loaded{version}"))
}

fn device() -> Check {
    let path = postbox::DEVICE;
    let Ok(node) = fs::metadata(path) else {
        let fix = "load the module; in a container, give it the device";
        return fail("device", format!("there is no {path}"), fix);
    };
    if !node.file_type().is_char_device() {
        return fail(
            "device",
            format!("{path} is not a device"),
            format!("sudo rm {path}, and load the module again"),
        );
    }
    let (mode, group) = (node.mode() & 0o777, Names::groups().name(node.gid()));
    let found = format!("{path} has mode {mode:04o} and group {group}");
    let fix = "install 60-postbox.rules (sudo make install), or: \
        sudo chgrp postbox /dev/postbox && sudo chmod 0660 /dev/postbox";
    if access(path, Access::READ_OK | Access::WRITE_OK).is_err() {
        return fail(
            "device",
            format!("{found}: this user may not open it"),
            "sudo usermod -aG postbox $USER",
        );
    }
    if mode == 0o660 && group == "postbox" {
        pass("device", found)
    } else {
        warn("device", found, fix)
    }
}

fn quota() -> Check {
    let usage = match postbox::usage() {
        Ok(usage) => usage,
        Err(error) => {
            return fail(
                "quota",
                error.to_string(),
                "install module and command from the same release",
            );
        }
    };
    let found = format!(
        "{} of {} messages, {} of {} bytes, {} of {} files in them, {} of {} objects, \
         {} of {} bytes of shared memory in use",
        usage.messages,
        usage.messages_max,
        usage.bytes,
        usage.bytes_max,
        usage.files,
        usage.files_max,
        usage.objects,
        usage.objects_max,
        usage.shared,
        usage.shared_max,
    );
    let tight = |used: u64, max: u64| used > max - max / 10;
    let any = tight(usage.messages, usage.messages_max)
        || tight(usage.bytes, usage.bytes_max)
        || tight(usage.files, usage.files_max)
        || tight(usage.objects, usage.objects_max)
        || tight(usage.shared, usage.shared_max);
    if any {
        let fix = "receive what is queued, remove objects (postbox ls, postbox rm), or raise the \
            parameters in /sys/module/postbox/parameters";
        return warn("quota", found, fix);
    }
    pass("quota", found)
}

fn round_trip() -> Check {
    let try_it = || -> postbox::Result<Option<u32>> {
        let mailbox = Mailbox::options().anonymous()?;
        mailbox.try_send("doctor")?;
        let message = mailbox.try_recv()?;
        Ok((*message == *b"doctor").then_some(message.sender.pid))
    };
    match try_it() {
        Ok(Some(pid)) if pid == std::process::id() => {
            pass("round trip", "a message came back, from this process")
        }
        Ok(Some(pid)) => fail(
            "round trip",
            format!("a message came back from process {pid}"),
            "report this",
        ),
        Ok(None) => fail(
            "round trip",
            "a message came back with other bytes",
            "report this",
        ),
        Err(error) => fail(
            "round trip",
            error.to_string(),
            "see the kernel's log: sudo dmesg",
        ),
    }
}

fn files() -> Check {
    match getrlimit(Resource::Nofile).current {
        Some(limit) if limit < 1024 => {
            let fix = "ulimit -n 1024, or LimitNOFILE= of the service";
            warn(
                "open files",
                format!("at most {limit}, and every handle is one"),
                fix,
            )
        }
        limit => pass(
            "open files",
            format!(
                "at most {}",
                limit.map_or("unlimited".into(), |limit| limit.to_string())
            ),
        ),
    }
}

/// The memory control group that pays for what this process sends.
fn memory() -> Check {
    let groups = read("/proc/self/cgroup").unwrap_or_default();
    let unlimited = || {
        let fix = "mount cgroup v2 with its memory controller; until then the quota alone holds";
        warn(
            "memory group",
            "no memory control group: messages are charged to nobody",
            fix,
        )
    };
    let Some(group) = groups.lines().find_map(|line| line.strip_prefix("0::")) else {
        return unlimited();
    };
    let directory = format!("/sys/fs/cgroup{}", group.trim_end_matches('/'));
    match read(&format!("{directory}/memory.max")) {
        Some(limit) => pass("memory group", format!("{group} is charged, limit {limit}")),
        // The root group has no limit, and no such file.
        None if read(&format!("{directory}/cgroup.controllers"))
            .is_some_and(|c| c.split(' ').any(|c| c == "memory")) =>
        {
            pass("memory group", format!("{group}, without a limit"))
        }
        None => unlimited(),
    }
}

fn io_uring() -> Check {
    let name = "io_uring";
    match read("/proc/sys/kernel/io_uring_disabled").as_deref() {
        Some("0") => pass(name, "allowed"),
        Some("1") => warn(
            name,
            "only for CAP_SYS_ADMIN and the group of kernel.io_uring_group",
            "sudo sysctl kernel.io_uring_disabled=0",
        ),
        Some(_) => warn(
            name,
            "switched off",
            "sudo sysctl kernel.io_uring_disabled=0",
        ),
        None => warn(
            name,
            "not in this kernel",
            "use a kernel with CONFIG_IO_URING; everything else works without",
        ),
    }
}

fn debugfs() -> Check {
    const DEBUGFS_MAGIC: u64 = 0x6462_6720;
    let (root, listing) = ("/sys/kernel/debug", "/sys/kernel/debug/postbox/objects");
    // The magic number is 32 bits of a word whose sign and width differ between machines.
    if !statfs(root).is_ok_and(|fs| fs.f_type as u64 == DEBUGFS_MAGIC) {
        return warn(
            "debugfs",
            format!("not mounted on {root}"),
            format!("sudo mount -t debugfs none {root}"),
        );
    }
    match fs::read(listing) {
        Ok(_) => pass("debugfs", format!("{listing} can be read")),
        Err(error) if error.kind() == std::io::ErrorKind::PermissionDenied => {
            pass("debugfs", "mounted; for root only")
        }
        Err(_) => warn(
            "debugfs",
            format!("there is no {listing}"),
            "load the module on a kernel with CONFIG_DEBUG_FS",
        ),
    }
}
