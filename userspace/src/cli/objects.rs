//! Listing and inspecting.

use crate::args::Output;
use crate::output::{json, table};
use crate::{Failure, each};
use postbox::{Capacity, Info, Kind, sys};
use serde_json::Value;
use std::fs;

fn mode(info: &Info) -> String {
    format!("{:04o}", info.mode)
}

fn capacity(info: &Info) -> String {
    match info.capacity {
        Capacity::Rendezvous => "rendezvous".into(),
        Capacity::Bounded(messages) => messages.to_string(),
        Capacity::Unbounded => "unbounded".into(),
    }
}

/// The number, if it is one.
fn limit(number: Option<u64>) -> String {
    number.map_or("unbounded".into(), |number| number.to_string())
}

/// A semaphore's maximum, if it has one.
fn maximum(info: &Info) -> Option<u64> {
    Some(info.maximum).filter(|&maximum| maximum != sys::POSTBOX_UNBOUNDED)
}

/// What it is called: its name, or what it has instead. No name has a ':' in it.
fn label(info: &Info) -> String {
    match (&info.name, info.number) {
        (Some(name), _) => name.clone(),
        (None, Some(pid)) if info.kind == Kind::Endpoint => format!("process:{pid}"),
        (None, Some(port)) => format!("port:{port}"),
        (None, None) => String::new(),
    }
}

fn to_json(info: &Info) -> Value {
    let mut value = serde_json::to_value(info).unwrap_or_default();
    value["mode"] = mode(info).into();
    value
}

pub fn ls(glob: Option<&str>, all: bool, output: &Output) -> Result<(), Failure> {
    let listed = if all {
        postbox::list_all()?
    } else {
        postbox::list()?
    };
    let mut infos = listed.collect::<Result<Vec<_>, _>>()?;
    if let Some(glob) = glob {
        infos.retain(|info| matches(glob.as_bytes(), label(info).as_bytes()));
    }
    infos.sort_by_cached_key(label);
    if output.json {
        return Ok(json(
            "objects",
            infos.iter().map(to_json).collect::<Vec<_>>(),
        )?);
    }
    let (users, groups) = (Names::users(), Names::groups());
    let mut heading = vec![
        "NAME",
        "KIND",
        "MODE",
        "OWNER",
        "GROUP",
        "MESSAGES",
        "CAPACITY",
        "BYTES",
        "SENDERS",
        "RECEIVERS",
        "WAITING",
        "VALUE",
    ];
    if all {
        heading.extend(["ID", "NAMESPACE"]);
    }
    let row = |info: &Info| {
        let none = || String::from("-");
        let [messages, capacity, bytes, value] = match info.kind {
            Kind::Semaphore | Kind::Latch | Kind::Barrier => [none(), none(), none(), value(info)],
            Kind::Segment => [none(), limit(info.capacity_bytes) + "B", none(), none()],
            Kind::Pool => [
                info.messages.to_string(),
                limit(info.capacity_bytes) + "B",
                none(),
                value(info),
            ],
            Kind::Pipe => [
                none(),
                limit(info.capacity_bytes) + "B",
                info.bytes.to_string(),
                none(),
            ],
            _ => [
                info.messages.to_string(),
                capacity(info),
                info.bytes.to_string(),
                none(),
            ],
        };
        let mut row = vec![
            label(info),
            info.kind.to_string(),
            mode(info),
            users.name(info.uid),
            groups.name(info.gid),
            messages,
            capacity,
            bytes,
            info.senders.to_string(),
            info.receivers.to_string(),
            (info.waiting_senders + info.waiting_receivers).to_string(),
            value,
        ];
        if all {
            let namespace = if info.foreign { "other" } else { "own" };
            row.extend([info.id.to_string(), namespace.into()]);
        }
        row
    };
    Ok(table(
        output,
        &heading,
        &infos.iter().map(row).collect::<Vec<_>>(),
    )?)
}

/// The value of a wait object, of how many.
fn value(info: &Info) -> String {
    let of = maximum(info).map_or(String::new(), |maximum| format!("/{maximum}"));
    let broken = if info.broken { " broken" } else { "" };
    format!("{}{of}{broken}", info.value)
}

/// By its name, or by what it is called instead.
fn find(name: &str) -> Result<Info, Failure> {
    if !name.contains(':') {
        return Ok(postbox::stat(name)?);
    }
    for info in postbox::list()? {
        let info = info?;
        if label(&info) == name {
            return Ok(info);
        }
    }
    Err(Failure::with(
        3,
        format!("nobody has {name} open; objects without a name are port:5001, process:12"),
    ))
}

pub fn stat(names: &[String], output: &Output) -> Result<(), Failure> {
    let mut infos = Vec::new();
    let found = each(names, |name| {
        infos.push(find(name)?);
        Ok(())
    });
    if output.json {
        json("objects", infos.iter().map(to_json).collect::<Vec<_>>())?;
        return found;
    }
    let (users, groups) = (Names::users(), Names::groups());
    let mut rows = Vec::new();
    for info in &infos {
        let name = label(info);
        let mut facts = vec![
            ("id", info.id.to_string()),
            ("kind", info.kind.to_string()),
            ("persist", yes(info.persist)),
            ("mode", mode(info)),
            ("owner", users.name(info.uid)),
            ("group", groups.name(info.gid)),
        ];
        facts.extend(state(info));
        rows.extend(
            facts
                .into_iter()
                .map(|(fact, value)| vec![name.clone(), fact.into(), value]),
        );
    }
    if !rows.is_empty() {
        table(output, &["NAME", "FACT", "VALUE"], &rows)?;
    }
    found
}

fn yes(yes: bool) -> String {
    if yes { "yes" } else { "no" }.into()
}

/// Those facts that its kind has.
fn state(info: &Info) -> Vec<(&'static str, String)> {
    let handles = [
        ("senders", info.senders.to_string()),
        ("receivers", info.receivers.to_string()),
        ("waiting-senders", info.waiting_senders.to_string()),
        ("waiting-receivers", info.waiting_receivers.to_string()),
    ];
    let traffic = [
        ("sent", info.sent.to_string()),
        ("received", info.received.to_string()),
    ];
    let mut facts = Vec::new();
    match info.kind {
        Kind::Semaphore | Kind::Latch | Kind::Barrier => {
            facts.push(("value", info.value.to_string()));
            facts.push(("maximum", limit(maximum(info))));
            facts.extend((info.kind != Kind::Semaphore).then(|| ("broken", yes(info.broken))));
            facts.extend(handles);
        }
        Kind::Pool => {
            facts.push(("blocks", info.maximum.to_string()));
            facts.push(("block-size", limit(info.capacity_bytes)));
            facts.push(("free", info.value.to_string()));
            facts.push(("held", info.unacknowledged.to_string()));
            facts.push(("under-way", info.messages.to_string()));
            facts.extend(handles);
            facts.push(("lent", info.sent.to_string()));
            facts.push(("freed", info.received.to_string()));
            facts.push(("empty", info.full.to_string()));
            facts.push(("high-blocks", info.high_messages.to_string()));
            facts.push(("requests", info.requests.to_string()));
        }
        Kind::Segment => {
            facts.push(("size", limit(info.capacity_bytes)));
            facts.push(("frozen", yes(info.frozen)));
            facts.extend(handles);
        }
        Kind::Pipe => {
            facts.push(("capacity-bytes", limit(info.capacity_bytes)));
            facts.push(("bytes", info.bytes.to_string()));
            facts.extend(handles);
            facts.extend(traffic);
            facts.push(("full", info.full.to_string()));
            facts.push(("high-bytes", info.high_bytes.to_string()));
        }
        _ => {
            facts.extend((info.kind == Kind::Link).then(|| ("connected", yes(info.connected))));
            facts.push(("capacity", capacity(info)));
            facts.push(("capacity-bytes", limit(info.capacity_bytes)));
            facts.push(("message-max", info.message_max.to_string()));
            facts.push(("messages", info.messages.to_string()));
            facts.push(("bytes", info.bytes.to_string()));
            facts.push(("unacknowledged", info.unacknowledged.to_string()));
            facts.push(("reserved", info.reserved_messages.to_string()));
            facts.extend(handles);
            facts.extend(traffic);
            facts.push(("redelivered", info.redelivered.to_string()));
            facts.push(("full", info.full.to_string()));
            facts.push(("high-messages", info.high_messages.to_string()));
            facts.push(("high-bytes", info.high_bytes.to_string()));
        }
    }
    facts
}

pub fn limits(output: &Output) -> Result<(), Failure> {
    let (usage, version) = (postbox::usage()?, postbox::version()?);
    if output.json {
        let mut value = serde_json::to_value(usage).unwrap_or_default();
        value["message_max"] = version.message_max.into();
        value["batch_max"] = version.batch_max.into();
        return Ok(json("limits", value)?);
    }
    let row = |what: &str, used: Option<u64>, max: u64| {
        vec![
            what.into(),
            used.map_or("-".into(), |used| used.to_string()),
            max.to_string(),
        ]
    };
    let rows = [
        row(
            "messages of this user",
            Some(usage.messages),
            usage.messages_max,
        ),
        row("bytes in them", Some(usage.bytes), usage.bytes_max),
        row("files in them", Some(usage.files), usage.files_max),
        row(
            "objects of this user",
            Some(usage.objects),
            usage.objects_max,
        ),
        row(
            "bytes of shared memory",
            Some(usage.shared),
            usage.shared_max,
        ),
        row("bytes of a message", None, version.message_max),
        row("messages of a batch", None, version.batch_max.into()),
    ];
    Ok(table(output, &["LIMIT", "USED", "MAX"], &rows)?)
}

/// Whether a name matches: * stands for any characters, ? for one.
///
/// Only the last * may have to take more: what stands before it has matched as early as it can. So the time is at most the
/// product of both lengths, whatever names others choose.
fn matches(glob: &[u8], name: &[u8]) -> bool {
    let (mut g, mut n) = (0, 0);
    // Behind the last *, and where in the name the rest of the pattern was tried.
    let mut last = None;
    while n < name.len() {
        match glob.get(g) {
            Some(b'*') => {
                g += 1;
                last = Some((g, n));
            }
            Some(&c) if c == b'?' || c == name[n] => (g, n) = (g + 1, n + 1),
            _ => match &mut last {
                None => return false,
                Some((rest, tried)) => {
                    *tried += 1;
                    (g, n) = (*rest, *tried);
                }
            },
        }
    }
    glob[g..].iter().all(|&c| c == b'*')
}

/// The file of users or of groups: names and their numbers.
pub struct Names(Vec<(String, u32)>);

impl Names {
    pub fn users() -> Self {
        Self::read("/etc/passwd")
    }

    pub fn groups() -> Self {
        Self::read("/etc/group")
    }

    fn read(path: &str) -> Self {
        let text = fs::read_to_string(path).unwrap_or_default();
        let entry = |line: &str| {
            let mut fields = line.split(':');
            Some((fields.next()?.to_owned(), fields.nth(1)?.parse().ok()?))
        };
        Names(text.lines().filter_map(entry).collect())
    }

    pub fn name(&self, id: u32) -> String {
        let known = self.0.iter().find(|(_, number)| *number == id);
        known.map_or_else(|| id.to_string(), |(name, _)| name.clone())
    }

    fn id(&self, name: &str) -> Option<u32> {
        let known = self.0.iter().find(|(known, _)| known == name);
        known.map(|(_, id)| *id).or_else(|| name.parse().ok())
    }
}

/// OWNER, OWNER:GROUP or :GROUP.
pub fn owner(text: &str) -> Result<(Option<u32>, Option<u32>), Failure> {
    let (user, group) = text.split_once(':').unwrap_or((text, ""));
    let usage = |message: String| Failure::with(2, message);
    if user.is_empty() && group.is_empty() {
        return Err(usage("give OWNER, OWNER:GROUP or :GROUP".into()));
    }
    let find = |name: &str, names: Names, what| match name {
        "" => Ok(None),
        name => names
            .id(name)
            .map(Some)
            .ok_or_else(|| usage(format!("there is no {what} {name:?}; give a number"))),
    };
    Ok((
        find(user, Names::users(), "user")?,
        find(group, Names::groups(), "group")?,
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs() {
        let matches = |glob: &str, name: &str| matches(glob.as_bytes(), name.as_bytes());
        assert!(
            matches("*", "a/b")
                && matches("a*", "a")
                && matches("*b", "aab")
                && matches("a?c", "abc")
        );
        assert!(matches("a*b*c", "a-b-b-c") && matches("build/*", "build/jobs"));
        assert!(
            !matches("a", "ab") && !matches("a?", "a") && !matches("*b", "ba") && !matches("", "a")
        );
        assert!(matches("", "") && matches("*", "") && matches("**", "a") && !matches("?", ""));
        assert!(matches("*ab*ab", "abaabab") && !matches("*ab*abc", "abaabab"));
    }

    /// Names are chosen by other users.
    #[test]
    fn glob_with_many_stars_is_fast() {
        let name = "a".repeat(63);
        for stars in [8, 500] {
            let glob = "*a".repeat(stars) + "*b";
            assert!(!matches(glob.as_bytes(), name.as_bytes()));
        }
    }

    /// The matcher agrees with the plain recursive definition.
    #[test]
    fn globs_mean_what_their_definition_says() {
        fn defined(glob: &[u8], name: &[u8]) -> bool {
            match (glob.split_first(), name.split_first()) {
                (None, None) => true,
                (Some((b'*', rest)), _) => {
                    defined(rest, name) || (!name.is_empty() && defined(glob, &name[1..]))
                }
                (Some((&g, glob)), Some((&n, name))) => {
                    (g == b'?' || g == n) && defined(glob, name)
                }
                _ => false,
            }
        }
        let words = |letters: &[u8], most: u32| {
            let base = letters.len();
            (0..=most)
                .flat_map(|length| {
                    (0..base.pow(length))
                        .map(move |n| (0..length).map(move |i| n / base.pow(i) % base))
                })
                .map(|word| word.map(|i| letters[i]).collect::<Vec<u8>>())
                .collect::<Vec<_>>()
        };
        for glob in words(b"ab*?", 5) {
            for name in words(b"ab", 5) {
                assert_eq!(
                    matches(&glob, &name),
                    defined(&glob, &name),
                    "{glob:?} {name:?}"
                );
            }
        }
    }

    #[test]
    fn owners_by_number_and_name() {
        let owner = |text| owner(text).map_err(|failure| failure.status);
        assert_eq!(owner("1000"), Ok((Some(1000), None)));
        assert_eq!(owner("root:5"), Ok((Some(0), Some(5))));
        assert_eq!(owner(":root"), Ok((None, Some(0))));
        assert_eq!(owner(":"), Err(2));
        assert_eq!(owner("no-such-user"), Err(2));
    }
}
