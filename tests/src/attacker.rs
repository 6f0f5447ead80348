//! Attackers: the identities under which the attack suite runs each of its programs.

use crate::{ALICE, Child, Spawn};

/// An identity that an attack is tried under.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Attacker {
    /// Uid 1000 with the device's group and no capabilities.
    User,
    /// The same user as root of a user namespace of its own.
    NamespaceRoot,
    /// The same user as root of a container: its own user, IPC and pid namespaces.
    Container,
}

impl Attacker {
    /// Every identity.
    pub const ALL: [Attacker; 3] = [Attacker::User, Attacker::NamespaceRoot, Attacker::Container];

    /// Forks a child that runs the closure under this identity.
    pub fn run(self, f: impl FnOnce()) -> Child {
        let child = Spawn::new().user(ALICE);
        match self {
            Attacker::User => child,
            Attacker::NamespaceRoot => child.user_ns(),
            Attacker::Container => child.user_ns().ipc_ns().pid_ns(),
        }
        .run(f)
    }
}

/// Runs the attack under each identity, one after the other; each must end well.
#[track_caller]
pub fn as_each_attacker(attack: impl Fn(Attacker)) {
    for attacker in Attacker::ALL {
        attacker.run(|| attack(attacker)).ok();
    }
}
