//! Each rule is needed: if it alone is switched off, one of the default seeds fails, and for the
//! reason that the rule exists for.

use super::{
    clusters,
    world::{Broken, Off, SEEDS, run},
};
use crate::rules::Rule;

/// Runs the default seeds until one fails, which must be for one of these reasons.
fn missed(off: Off, reasons: &[&str]) {
    let first = (0..SEEDS).find_map(|seed| match run(seed, off) {
        Ok(_) => None,
        Err(Broken { why, .. }) => Some((seed, why)),
    });
    let (seed, why) = first.unwrap_or_else(|| panic!("nobody misses {off:?}"));
    println!("{off:?}: seed {seed}: {why}");
    assert!(
        reasons.iter().any(|reason| why.contains(reason)),
        "{off:?} is noticed by seed {seed} for another reason: {why}"
    );
}

/// A write is judged by a wrong state.
const JUDGED: &[&str] = &[
    "judged by another state",
    "applies what had to be refused",
    "is told what record",
    "is refused by what never was",
];

#[test]
fn rows_that_a_checkpoint_overtook_are_missed() {
    missed(Off::Rule(Rule::RowsNotOvertaken), JUDGED);
}

#[test]
fn what_was_written_again_must_not_expire() {
    missed(
        Off::Rule(Rule::ExpiredStillHeld),
        &["expires what does not expire"],
    );
}

#[test]
fn who_is_no_master_must_not_judge() {
    missed(Off::Rule(Rule::MasterJudges), &["REP-CONFIRM"]);
}

#[test]
fn requests_must_be_remembered_and_old_ones_refused() {
    missed(Off::Rule(Rule::RequestsRemembered), &["I8"]);
    missed(Off::Rule(Rule::BirthsChecked), &["I8"]);
}

#[test]
fn what_the_log_refused_must_be_taken_back() {
    missed(
        Off::Rule(Rule::RefusedTakenBack),
        &["and done", "does not follow the ones in the log"],
    );
}

#[test]
fn writes_must_be_judged_by_what_is_appended() {
    missed(Off::Rule(Rule::JudgedByAppended), JUDGED);
}

#[test]
fn answers_must_wait_for_the_commit() {
    missed(Off::Rule(Rule::AnswersWait), &["REP-APPLY"]);
}

#[test]
fn versions_must_grow_over_restarts() {
    missed(Off::Rule(Rule::VersionsAboveSeen), &["I5"]);
}

#[test]
fn doubt_about_a_swap_must_stay_doubt() {
    missed(Off::Rule(Rule::UnknownIsUnknown), &["COORD-CAS"]);
}

#[test]
fn promises_must_outlive_the_process() {
    // With the promise, the highest cluster state seen is stored. Without it, an old record, read
    // late, is believed (COORD-BACK).
    let reasons = ["I2", "the cluster is new, but node"];
    missed(Off::Rule(Rule::PromisesKept), &reasons);
}

#[test]
fn what_is_told_to_be_applied_must_be() {
    // A request removed from the appended state and in no other state yet is applied again.
    let reasons = [JUDGED, &["REP-APPLY", "REP-CONFIRM", "I8"]].concat();
    missed(Off::Rule(Rule::AppliedFirst), &reasons);
}

#[test]
fn writers_must_wait_for_their_deletes() {
    missed(Off::Rule(Rule::DeletesBeforeAnswers), &["CACHE-DELETE"]);
}

#[test]
fn no_mark_may_pass_a_delete() {
    for rule in [
        Rule::DeletesRepeated,
        Rule::DeletesAtTheirRevision,
        Rule::OwnedAtItsPlace,
        Rule::MarksAfterDeletes,
        Rule::MarksWithheld,
    ] {
        missed(Off::Rule(rule), &["CACHE-MARK", "I6"]);
    }
}

#[test]
fn time_must_pass_as_it_does() {
    for rule in [
        Rule::TimeSteady,
        Rule::TimeStored,
        Rule::WallSynchronised,
        Rule::StoredSynchronised,
        Rule::FounderSettles,
    ] {
        missed(Off::Rule(rule), &["CLOCK-STEADY"]);
    }
}

#[test]
fn clusters_must_agree_on_the_time_and_get_there_slowly() {
    for (rule, reason) in [
        (Rule::FounderFollows, "a founder begins"),
        (Rule::ClustersAgree, "clusters are still"),
        (Rule::ClustersDrawn, "a key lived"),
        (Rule::MedianCounts, "was drawn"),
        (Rule::ReadingEchoed, "was drawn"),
    ] {
        let first = (0..clusters::SEEDS).find_map(|seed| clusters::run(seed, Some(rule)).err());
        let why = first.unwrap_or_else(|| panic!("nobody misses {rule:?}"));
        println!("{rule:?}: {why}");
        assert!(
            why.contains("CLOCK-STEADY") && why.contains(reason),
            "{rule:?}: {why}"
        );
    }
}

#[test]
fn the_log_must_be_synced() {
    missed(Off::LogSyncs, &["I1"]);
}

#[test]
fn a_process_must_start_as_no_master() {
    missed(Off::FreshStarts, &["I2"]);
}
