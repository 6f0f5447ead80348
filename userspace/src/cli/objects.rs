//! Listing and inspecting.

use crate::args::Output;
use crate::output::{json, table};
use crate::{Failure, each};
use postbox::{Capacity, Info};
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

fn to_json(info: &Info) -> Value {
    let mut value = serde_json::to_value(info).unwrap_or_default();
    value["kind"] = "mailbox".into();
    value["mode"] = mode(info).into();
    value
}

pub fn ls(glob: Option<&str>, output: &Output) -> Result<(), Failure> {
    let mut infos = postbox::list()?.collect::<Result<Vec<_>, _>>()?;
    if let Some(glob) = glob {
        infos.retain(|info| {
            info.name
                .as_ref()
                .is_some_and(|name| matches(glob.as_bytes(), name.as_bytes()))
        });
    }
    infos.sort_by(|a, b| a.name.cmp(&b.name));
    if output.json {
        return Ok(json(
            "objects",
            infos.iter().map(to_json).collect::<Vec<_>>(),
        )?);
    }
    let (users, groups) = (Names::users(), Names::groups());
    let heading = [
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
    ];
    let row = |info: &Info| {
        vec![
            info.name.clone().unwrap_or_default(),
            "mailbox".into(),
            mode(info),
            users.name(info.uid),
            groups.name(info.gid),
            info.messages.to_string(),
            capacity(info),
            info.bytes.to_string(),
            info.senders.to_string(),
            info.receivers.to_string(),
            (info.waiting_senders + info.waiting_receivers).to_string(),
        ]
    };
    Ok(table(
        output,
        &heading,
        &infos.iter().map(row).collect::<Vec<_>>(),
    )?)
}

pub fn stat(names: &[String], output: &Output) -> Result<(), Failure> {
    let mut infos = Vec::new();
    let found = each(names, |name| {
        infos.push(postbox::stat(name)?);
        Ok(())
    });
    if output.json {
        json("objects", infos.iter().map(to_json).collect::<Vec<_>>())?;
        return found;
    }
    let (users, groups) = (Names::users(), Names::groups());
    let mut rows = Vec::new();
    for info in &infos {
        let name = info.name.clone().unwrap_or_default();
        let facts = [
            ("id", info.id.to_string()),
            ("kind", "mailbox".into()),
            ("persist", if info.persist { "yes" } else { "no" }.into()),
            ("mode", mode(info)),
            ("owner", users.name(info.uid)),
            ("group", groups.name(info.gid)),
            ("capacity", capacity(info)),
            (
                "capacity-bytes",
                info.capacity_bytes
                    .map_or("unbounded".into(), |bytes| bytes.to_string()),
            ),
            ("message-max", info.message_max.to_string()),
            ("messages", info.messages.to_string()),
            ("bytes", info.bytes.to_string()),
            ("unacknowledged", info.unacknowledged.to_string()),
            ("reserved", info.reserved_messages.to_string()),
            ("senders", info.senders.to_string()),
            ("receivers", info.receivers.to_string()),
            ("waiting-senders", info.waiting_senders.to_string()),
            ("waiting-receivers", info.waiting_receivers.to_string()),
            ("sent", info.sent.to_string()),
            ("received", info.received.to_string()),
            ("redelivered", info.redelivered.to_string()),
            ("full", info.full.to_string()),
            ("high-messages", info.high_messages.to_string()),
            ("high-bytes", info.high_bytes.to_string()),
        ];
        rows.extend(facts.map(|(fact, value)| vec![name.clone(), fact.into(), value]));
    }
    if !rows.is_empty() {
        table(output, &["NAME", "FACT", "VALUE"], &rows)?;
    }
    found
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
        row(
            "objects of this user",
            Some(usage.objects),
            usage.objects_max,
        ),
        row("bytes of a message", None, version.message_max),
        row("messages of a batch", None, version.batch_max.into()),
    ];
    Ok(table(output, &["LIMIT", "USED", "MAX"], &rows)?)
}

/// Whether a name matches: * stands for any characters, ? for one.
fn matches(glob: &[u8], name: &[u8]) -> bool {
    match (glob.split_first(), name.split_first()) {
        (None, None) => true,
        (Some((b'*', rest)), _) => {
            matches(rest, name) || (!name.is_empty() && matches(glob, &name[1..]))
        }
        (Some((&g, glob)), Some((&n, name))) => (g == b'?' || g == n) && matches(glob, name),
        _ => false,
    }
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
    let usage = |message| Failure { status: 2, message };
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
