use super::*;

fn node(name: &str) -> NodeId {
    NodeId::new(name).unwrap()
}

fn log(log_id: u64, epoch: u64, index: u64) -> LogReport {
    LogReport {
        log_id: LogId(log_id),
        last: Position {
            epoch: Epoch(epoch),
            index: Index(index),
        },
        commit: Index(index),
        role: NodeRole::Starting,
        follows: None,
        newest: None,
        awaits_above: Epoch::ZERO,
    }
}

/// A cluster of three in epoch 5, of which the logs 1 of n1 and 2 of n2 are in sync; nobody answers.
fn lost() -> ClusterRecovery {
    let listed = |name, log_id| Listed {
        node: node(name),
        log_id: LogId(log_id),
    };
    let members = vec![node("n1"), node("n2"), node("n3")];
    let in_sync = vec![listed("n1", 1), listed("n2", 2)];
    let state = ClusterState::new(Epoch(5), node("n1"), in_sync, members.clone());
    let nodes = members.into_iter().map(|node| NodeFinding {
        listed: state
            .in_sync
            .iter()
            .find(|it| it.node == node)
            .map(|it| it.log_id),
        node,
        presence: None,
        note: None,
        report: None,
    });
    ClusterRecovery {
        cluster: ClusterId::new("c1").unwrap(),
        platform: PlatformId(1),
        revision: Revision(7),
        nodes: nodes.collect(),
        behind: None,
        awaited: Epoch::ZERO,
        state,
    }
}

/// Coordination has the record of `lost` again, though nodes saw epoch 8, in which the logs 1 of n1
/// and 3 of n3 are in sync and n4 is a member.
fn set_back(reports: &[(&str, LogReport)]) -> ClusterRecovery {
    let ClusterRecovery {
        cluster,
        platform,
        revision,
        state,
        ..
    } = lost();
    let listed = |name, log_id| Listed {
        node: node(name),
        log_id: LogId(log_id),
    };
    let members = ["n1", "n2", "n3", "n4"].map(node).to_vec();
    let in_sync = vec![listed("n1", 1), listed("n3", 3)];
    let newest = Seen {
        // The store was made anew from the backup, so its revisions are lower.
        revision: 3,
        state: ClusterState::new(Epoch(8), node("n3"), in_sync, members),
    };
    let found = reports.iter().map(|(name, report)| NodeFinding {
        report: Some(LogReport {
            newest: Some(newest.clone()),
            awaits_above: newest.state.epoch.max(report.awaits_above),
            ..report.clone()
        }),
        ..NodeFinding::absent(node(name))
    });
    let record = Seen {
        revision: revision.0,
        state,
    };
    let found: Vec<NodeFinding> = found.collect();
    ClusterRecovery::of(cluster, platform, revision, record, &found)
}

#[test]
fn a_record_that_went_back_is_replaced_by_one_above_all_that_were_seen() {
    let all = [
        ("n1", log(1, 8, 50)),
        ("n2", log(2, 7, 40)),
        ("n3", log(3, 8, 51)),
    ];
    let recovery = set_back(&all);
    assert_eq!(recovery.behind(), Some(Epoch(5)));
    assert_eq!(recovery.objection(), None);
    assert_eq!(recovery.best(), Some(&node("n3")));
    assert!(recovery.is_in_sync(&node("n1")) && !recovery.is_in_sync(&node("n2")));
    let next = recovery.check(&node("n3")).unwrap();
    assert_eq!((next.epoch, &next.master), (Epoch(9), &None));
    assert!(next.lists(&node("n3"), LogId(3)) && next.in_sync.len() == 1);
    // The members are those of the newest record, and n4 may come back.
    assert_eq!(next.members.len(), 4);
    let unlisted = refusal(&recovery, "n2");
    assert!(unlisted.contains("continue with n3"), "{unlisted}");
    let silent = refusal(&recovery, "n4");
    assert!(silent.contains("does not answer"), "{silent}");

    // A log out of sync is no better for being longer; without one in sync it is the best.
    let longer = set_back(&[("n1", log(1, 8, 50)), ("n2", log(2, 8, 60))]);
    assert_eq!(longer.best(), Some(&node("n1")));
    let left = set_back(&[("n2", log(2, 7, 40))]);
    assert_eq!(left.best(), Some(&node("n2")));
    assert!(left.check(&node("n2")).is_ok());
}

/// The record of epoch 12 is known only by its order, from a node that does not answer any more.
#[test]
fn a_recovered_record_is_above_one_that_nobody_who_answers_has() {
    let waiting = LogReport {
        awaits_above: Epoch(12),
        ..log(1, 8, 50)
    };
    let recovery = set_back(&[("n1", waiting)]);
    assert_eq!(
        (recovery.behind(), recovery.epoch()),
        (Some(Epoch(5)), Epoch(12))
    );
    assert!(recovery.is_in_sync(&node("n1")) && !recovery.is_complete());
    assert_eq!(recovery.check(&node("n1")).unwrap().epoch, Epoch(13));
}

fn reporting(reports: &[(usize, LogReport)]) -> ClusterRecovery {
    let mut recovery = lost();
    for (place, report) in reports {
        recovery.nodes[*place].report = Some(report.clone());
    }
    recovery
}

fn refusal(recovery: &ClusterRecovery, name: &str) -> String {
    recovery.check(&node(name)).unwrap_err().to_string()
}

#[test]
fn the_last_log_is_listed_alone_and_the_lost_members_leave() {
    let recovery = reporting(&[(2, log(3, 5, 40))]);
    let next = recovery.check(&node("n3")).unwrap();
    assert_eq!((next.epoch, &next.master), (Epoch(6), &None));
    assert!(next.lists(&node("n3"), LogId(3)) && next.in_sync.len() == 1);
    assert_eq!(
        (next.members.as_slice(), next.min_in_sync()),
        (&[node("n3")][..], 1)
    );
    assert_eq!(ClusterState::decode(&next.encode()).unwrap(), next);
}

#[test]
fn a_majority_that_answers_keeps_its_members() {
    // n1 came back with another disk.
    let recovery = reporting(&[(0, log(9, 0, 0)), (2, log(3, 5, 40))]);
    let next = recovery.check(&node("n3")).unwrap();
    assert_eq!((next.members.len(), next.min_in_sync()), (3, 2));
    assert!(next.lists(&node("n3"), LogId(3)) && next.in_sync.len() == 1);
    assert_eq!(recovery.best(), Some(&node("n3")));
    let less = refusal(&recovery, "n1");
    assert!(less.contains("continue with n3"), "{less}");
}

#[test]
fn nothing_is_recovered_while_a_log_in_sync_may_be_there() {
    let there = reporting(&[(1, log(2, 5, 50)), (2, log(3, 5, 40))]);
    let words = refusal(&there, "n3");
    assert!(words.contains("n2 has a log that is in sync"), "{words}");
    assert!(words.contains("Start those that don't (n1)"), "{words}");

    let mut silent = reporting(&[(2, log(3, 5, 40))]);
    let presence = Presence::of_this_process("10.0.0.1:7600".to_owned());
    silent.nodes[0].presence = Some(presence.clone());
    let words = refusal(&silent, "n3");
    assert!(
        words.contains("at 10.0.0.1:7600) but does not answer"),
        "{words}"
    );
    // The process of a node whose log is not in sync may be gone.
    silent.nodes[0].presence = None;
    silent.nodes[2].presence = Some(presence);
    assert!(silent.check(&node("n3")).is_ok());
}

#[test]
fn nothing_is_recovered_while_there_is_a_master() {
    let master = LogReport {
        role: NodeRole::Master,
        ..log(2, 5, 60)
    };
    let replica = LogReport {
        follows: Some("n2".to_owned()),
        ..log(3, 5, 40)
    };
    let both = reporting(&[(1, master), (2, replica.clone())]);
    let words = refusal(&both, "n3");
    assert!(words.contains("n2 is the master"), "{words}");
    // The master is cut off from this machine only.
    let words = refusal(&reporting(&[(2, replica)]), "n3");
    assert!(words.contains("n3 hears the master n2"), "{words}");
}

#[test]
fn a_node_that_can_t_be_looked_at_is_refused() {
    let words = refusal(&lost(), "n3");
    assert!(words.contains("start its process first"), "{words}");
    let words = refusal(&lost(), "n9");
    assert!(words.contains("its nodes are n1, n2, n3"), "{words}");
}

#[test]
fn a_learner_that_is_left_becomes_a_member() {
    let mut recovery = lost();
    recovery.state.learners.push(node("n4"));
    recovery.nodes.push(NodeFinding {
        node: node("n4"),
        listed: None,
        presence: None,
        note: None,
        report: Some(log(4, 5, 30)),
    });
    let next = recovery.check(&node("n4")).unwrap();
    assert_eq!(
        (next.members, next.learners),
        (vec![node("n4")], Vec::new())
    );
}

#[test]
fn the_known_loss_is_what_was_noted_and_is_not_in_the_log() {
    let mut recovery = reporting(&[(2, log(3, 5, 40))]);
    assert_eq!(recovery.known_loss(&node("n3")), Some(0));
    recovery.nodes[0].note = Some(Note {
        log_id: LogId(1),
        commit: Index(52),
    });
    assert_eq!(recovery.known_loss(&node("n3")), Some(12));
    assert_eq!(recovery.known_loss(&node("n1")), None);
}
