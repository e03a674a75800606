//! Reading a name: no panic, and whatever names a session is found again under its alias.
#![no_main]

// Taken in as source: a session knows nobody, so the rest of the crate need not be built for this.
#[allow(dead_code)]
#[path = "../../src/session"]
mod session {
    pub mod name;
}

use libfuzzer_sys::fuzz_target;
use session::name::{Form, RootName, SessionName, Shard, Sid};

fuzz_target!(|name: &str| {
    if let Some(sid) = Sid::parse(name) {
        let alias = sid.alias();
        let listed = SessionName::in_shard(sid.shard(), &alias.entry(Form::Sharded));
        let candidate = listed.and_then(|name| name.candidate).expect("of an alias's shape");
        assert!(candidate.among(|shown| *shown == alias).is_some());
        assert!(SessionName::in_shard(sid.shard(), name).is_some());
        assert!(!format!("{sid:?}").contains(name));
    }
    match RootName::parse(name) {
        RootName::Shard(shard) => assert_eq!(Shard::from_index(shard.index()), Some(shard)),
        RootName::Session(flat) => {
            let listed = RootName::parse(&flat.sid.alias().entry(Form::Flat));
            let RootName::Session(listed) = listed else { panic!("a listed name is none") };
            let known = |alias: &_| *alias == flat.sid.alias();
            assert!(listed.candidate.is_some_and(|candidate| candidate.among(known).is_some()));
        }
        RootName::Spool(spool) => {
            assert!(matches!(RootName::parse(&spool.aliased()), RootName::Spool(_)));
        }
        RootName::Staging | RootName::Other => {}
    }
});
