//! Segments and pools, and grants of anything that has a name.

use crate::args::{Grant, Grantee, MakeSegment, Pool, Revoke, Segment};
use crate::{Failure, objects, stdio};
use postbox::{Admin, ErrorKind, Pages, Rights, SegmentReader};
use std::fs::File;
use std::io::{Read, Write};
use std::path::Path;

/// Copied at once.
const CHUNK: usize = 1 << 16;

pub fn segment(args: &Segment) -> Result<(), Failure> {
    match args {
        Segment::Create { make, size } => {
            let mut options = options(make);
            let made = options.persist(true).create_new(&make.name, *size);
            exist_ok(make, made.map(drop))
        }
        Segment::Freeze { make, file } => {
            let mut contents = Vec::new();
            input(file)?.read_to_end(&mut contents)?;
            let mut options = options(make);
            let made = options.persist(true).freeze(&make.name, &contents);
            exist_ok(make, made.map(drop))
        }
        Segment::Read {
            name,
            offset,
            length,
        } => read(name, *offset, *length),
        Segment::Write { name, offset, file } => write(name, *offset, file),
    }
}

pub fn pool(args: &Pool) -> Result<(), Failure> {
    match args {
        Pool::Create { make, blocks, size } => {
            let mut options = postbox::Pool::options();
            options.mode(make.mode).persist(true);
            if make.huge {
                options.pages(Pages::Huge);
            }
            let size = usize::try_from(*size).unwrap_or(usize::MAX);
            exist_ok(
                make,
                options.create_new(&make.name, *blocks, size).map(drop),
            )
        }
    }
}

fn options(make: &MakeSegment) -> postbox::SegmentOptions {
    let mut options = postbox::Segment::options();
    options.mode(make.mode);
    if make.huge {
        options.pages(Pages::Huge);
    }
    options
}

fn exist_ok(make: &MakeSegment, made: postbox::Result<()>) -> Result<(), Failure> {
    match made {
        Err(error) if make.exist_ok && error.kind == ErrorKind::Exists => Ok(()),
        made => Ok(made?),
    }
}

/// Standard input, or a file.
fn input(path: &Path) -> Result<Box<dyn Read>, Failure> {
    if path == Path::new("-") {
        let input = stdio::input()
            .map_err(|error| Failure::new(format!("cannot read standard input: {error}")))?;
        return Ok(Box::new(input));
    }
    let file = File::open(path)
        .map_err(|error| Failure::new(format!("cannot open {}: {error}", path.display())))?;
    Ok(Box::new(file))
}

fn read(name: &str, offset: u64, length: Option<u64>) -> Result<(), Failure> {
    let view = SegmentReader::open(name)?.attach()?;
    let size = view.len() as u64;
    let length = length.unwrap_or(size.saturating_sub(offset));
    let end = offset.checked_add(length).filter(|end| *end <= size);
    let end = end.ok_or_else(|| Failure::new(format!("{name:?} has {size} bytes")))?;
    let mut buffer = vec![0; CHUNK.min(length as usize)];
    let mut out = stdio::output()?;
    let mut at = offset;
    while at < end {
        let part = CHUNK.min((end - at) as usize);
        view.read(at as usize, &mut buffer[..part])?;
        crate::output::bytes(&mut out, &buffer[..part])?;
        at += part as u64;
    }
    Ok(out.flush()?)
}

fn write(name: &str, offset: u64, file: &Path) -> Result<(), Failure> {
    let mapping = postbox::Segment::open(name)?.attach()?;
    let mut input = input(file)?;
    let mut buffer = vec![0; CHUNK];
    let mut at = usize::try_from(offset).unwrap_or(usize::MAX);
    loop {
        let read = input
            .read(&mut buffer)
            .map_err(|error| Failure::new(format!("cannot read the input: {error}")))?;
        if read == 0 {
            return Ok(());
        }
        mapping.write(at, &buffer[..read])?;
        at += read;
    }
}

pub fn grant(args: &Grant) -> Result<(), Failure> {
    let mut rights = Rights::empty();
    rights.set(Rights::RECEIVE, args.rights.contains('r'));
    rights.set(Rights::SEND, args.rights.contains('w'));
    let to = grantee(&args.to)?;
    Ok(Admin::open(&args.name)?.grant(to, rights)?)
}

pub fn revoke(args: &Revoke) -> Result<(), Failure> {
    let from = grantee(&args.from)?;
    Ok(Admin::open(&args.name)?.revoke(from)?)
}

/// One of the three is given.
fn grantee(args: &Grantee) -> Result<postbox::Grantee, Failure> {
    if let Some(pid) = args.pid {
        return Ok(postbox::Grantee::Pid(pid));
    }
    let owner = match (&args.uid, &args.gid) {
        (Some(user), _) => user.clone(),
        (None, group) => format!(":{}", group.as_deref().unwrap_or_default()),
    };
    Ok(match objects::owner(&owner)? {
        (Some(uid), _) => postbox::Grantee::Uid(uid),
        (None, group) => postbox::Grantee::Gid(group.unwrap_or_default()),
    })
}
