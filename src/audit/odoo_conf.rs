//! Odoo's own configuration, of each Odoo on this host, as far as sessions and logins depend on it.

use std::path::Path;

use super::finding::{Finding, Grade, Question};
use crate::odoo::{Instance, Sign};

/// More than a host has.
const INSTANCES_MAX: usize = 16;

/// What is known of how an Odoo is reached.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Surroundings {
    /// Whether a proxy is in front of it.
    pub has_proxy: bool,
    /// Whether the file of each is named in the remedies: only where there are several.
    pub are_several: bool,
}

/// Those that run, will be started by a unit, or have a configuration file: a directory alone tells
/// nothing. If one of them keeps its sessions in the directory that is named, others are no part of the
/// chain.
pub(crate) fn instances<'a>(all: &'a [Instance], sessions: Option<&Path>) -> Vec<&'a Instance> {
    let tells = |instance: &&Instance| match &instance.sign {
        Sign::Process(_) | Sign::Service(_) => true,
        Sign::File => instance.configuration.is_some(),
        Sign::Directory => false,
    };
    let mut told: Vec<&Instance> = all.iter().filter(tells).collect();
    let is_there = |instance: &&Instance| sessions.is_some_and(|named| keeps_in(instance, named));
    if told.iter().any(is_there) {
        told.retain(is_there);
    }
    // What is left in a usual place does not count beside an Odoo that runs.
    let runs = |instance: &&Instance| matches!(instance.sign, Sign::Process(_));
    if told.iter().any(runs) {
        told.retain(runs);
    }
    // Any user may start what looks like an Odoo: those of units come first.
    told.sort_by_key(|instance| instance.unit().is_none());
    told.truncate(INSTANCES_MAX);
    told
}

/// What is mounted there may not answer, so it is not asked for its name.
fn keeps_in(instance: &Instance, named: &Path) -> bool {
    let Some(here) = &instance.sessions_here else { return false };
    let above = named.parent().and_then(|above| above.canonicalize().ok());
    let resolved = above.zip(named.file_name()).map(|(above, name)| above.join(name));
    here == named || Some(here) == resolved.as_ref()
}

/// What is found in the configuration of these.
pub(crate) fn findings(instances: &[&Instance], has_proxy: bool) -> Vec<Finding> {
    if instances.is_empty() {
        return vec![Question::OdooFound.unknown(
            "no Odoo was found on this host",
            "run the audit where Odoo runs, or name its file with --odoo-conf",
        )];
    }
    let around = Surroundings { has_proxy, are_several: instances.len() > 1 };
    instances.iter().flat_map(|instance| of(instance, around)).collect()
}

fn of(instance: &Instance, around: Surroundings) -> Vec<Finding> {
    let who = if around.are_several { format!(" ({})", instance.source()) } else { String::new() };
    let file = instance.configuration.as_ref();
    if let Some(why) = file.and_then(|file| file.unreadable.as_ref()) {
        let path = file.map(|file| file.path.display().to_string()).unwrap_or_default();
        return vec![Question::OdooFound.unknown(
            format!("{path} cannot be read: {why}"),
            "run the audit as root, or correct the file",
        )];
    }
    let mut found = vec![Question::OdooFound.pass(instance.source())];
    found.push(proxy_mode(instance, around, &who));
    found.push(list_db(instance, &who));
    found.push(db_filter(instance, &who));
    found.push(workers(instance, &who));
    found
}

fn proxy_mode(instance: &Instance, around: Surroundings, who: &str) -> Finding {
    let question = Question::ProxyMode;
    match (instance.proxy_mode(), around.has_proxy) {
        (true, _) => question.pass(format!("True{who}")),
        (false, true) => question.finding(
            Grade::Fail,
            format!("not set, and there is a proxy{who}"),
            "proxy_mode = True in odoo.conf, and restart Odoo",
        ),
        (false, false) => {
            question.finding(Grade::Note, format!("not set; no proxy is known{who}"), "")
        }
    }
}

fn list_db(instance: &Instance, who: &str) -> Finding {
    if instance.lists_databases() {
        let remedy = "list_db = False in odoo.conf, and restart Odoo";
        return Question::ListDb.finding(Grade::Fail, format!("True, Odoo's default{who}"), remedy);
    }
    Question::ListDb.pass(format!("False{who}"))
}

fn db_filter(instance: &Instance, who: &str) -> Finding {
    let question = Question::DbFilter;
    if let Some(filter) = instance.db_filter() {
        // It matches everything.
        let is_open = matches!(filter.trim(), ".*" | "^.*$" | ".*$" | "^.*" | "");
        if !is_open {
            return question.pass(format!("{filter}{who}"));
        }
    }
    match instance.databases().as_slice() {
        [one] => question.pass(format!("db_name has one database, {one}{who}")),
        _ => question.finding(
            Grade::Warn,
            format!("neither dbfilter nor a db_name with one database is set{who}"),
            "dbfilter = ^NAME$ in odoo.conf (^%d$ where each domain has a database of its name), and restart Odoo",
        ),
    }
}

fn workers(instance: &Instance, who: &str) -> Finding {
    match instance.workers() {
        Some(count) if count > 0 => Question::Workers.pass(format!("{count}{who}")),
        _ => Question::Workers.finding(
            Grade::Warn,
            format!("0, Odoo's default{who}"),
            "workers = 2 or more in odoo.conf (two for each core), and restart Odoo",
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::odoo::Odoo;
    use crate::odoo::root::Root;

    fn judged(text: &str, has_proxy: bool) -> Vec<(&'static str, Grade)> {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("etc/odoo")).unwrap();
        std::fs::write(dir.path().join("etc/odoo/odoo.conf"), text).unwrap();
        let odoo = Odoo::look(&Root::at(dir.path()), None);
        let found = findings(&instances(&odoo.instances, None), has_proxy);
        found.iter().map(|one| (one.id, one.grade)).collect()
    }

    #[test]
    fn a_careful_file_passes_and_odoos_defaults_do_not() {
        let careful =
            "[options]\nproxy_mode = True\nlist_db = False\ndbfilter = ^shop$\nworkers = 4\n";
        assert!(judged(careful, true).iter().all(|(_, grade)| *grade == Grade::Pass));
        let defaults = judged("[options]\n", true);
        let grade = |id: &str| defaults.iter().find(|(found, _)| *found == id).unwrap().1;
        assert_eq!(grade("odoo.proxy-mode"), Grade::Fail);
        assert_eq!(grade("odoo.list-db"), Grade::Fail);
        assert_eq!(grade("odoo.dbfilter"), Grade::Warn);
        assert_eq!(grade("odoo.workers"), Grade::Warn);
        let alone = judged("[options]\n", false);
        assert!(alone.contains(&("odoo.proxy-mode", Grade::Note)));
    }

    #[test]
    fn one_named_database_is_a_filter_and_a_filter_for_all_is_none() {
        assert!(
            judged("[options]\ndb_name = shop\n", true).contains(&("odoo.dbfilter", Grade::Pass))
        );
        for open in ["db_name = a,b", "dbfilter = .*"] {
            let found = judged(&format!("[options]\n{open}\n"), true);
            assert!(found.contains(&("odoo.dbfilter", Grade::Warn)), "{open}");
        }
    }

    #[test]
    fn what_is_not_there_or_cannot_be_read_is_not_known() {
        assert_eq!(judged("nonsense", true), [("odoo.found", Grade::Unknown)]);
        let dir = tempfile::tempdir().unwrap();
        let odoo = Odoo::look(&Root::at(dir.path()), Some(Path::new("/none")));
        let found = findings(&instances(&odoo.instances, None), true);
        assert_eq!((found.len(), found[0].grade), (1, Grade::Unknown));
    }

    #[test]
    fn an_odoo_with_other_sessions_is_no_part_of_the_chain() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::create_dir_all(dir.path().join("etc/odoo")).unwrap();
        for (file, name) in [("etc/odoo/odoo.conf", "one"), ("etc/odoo.conf", "two")] {
            let text = format!("[options]\ndata_dir = /srv/{name}\n");
            std::fs::write(dir.path().join(file), text).unwrap();
        }
        let odoo = Odoo::look(&Root::at(dir.path()), None);
        let count = |named: Option<&str>| instances(&odoo.instances, named.map(Path::new)).len();
        assert_eq!((count(None), count(Some("/srv/one/sessions"))), (2, 1));
        assert_eq!(count(Some("/srv/three/sessions")), 2);
    }
}
