//! Shared memory of several processes, with a lock in it that survives the death of its holder.
//!
//! Run it several times at once:
//!
//!     cargo run --example shared_memory

use postbox::Segment;
use std::time::Duration;

fn main() -> postbox::Result<()> {
    // Whoever comes first makes it; it goes with the last one.
    let segment = Segment::options().create("example/counter", 4096)?;
    let mapping = segment.attach()?;
    // A lock and what it guards, in the first bytes. They begin as zeros: a free lock, and 0.
    let counter = mapping.mutex::<u64>(0)?;
    for _ in 0..5 {
        let mut guard = counter.lock()?;
        if guard.owner_died() {
            println!("somebody was killed with the lock");
            // One number is never half written: there is nothing to put right.
            guard.mark_consistent();
        }
        let now = guard.update(|counter| {
            *counter += 1;
            *counter
        });
        drop(guard);
        println!("process {} made it {now}", std::process::id());
        std::thread::sleep(Duration::from_millis(20));
    }
    Ok(())
}
