//! Each rule is needed: switched off alone, it is noticed within the default seeds.

use super::world::{Broken, Off, SEEDS, run};
use crate::rules::Rule;

/// The first seed that notices, and in which words.
fn noticed(off: Off) -> (u64, String) {
    let first = (0..SEEDS).find_map(|seed| match run(seed, off) {
        Ok(_) => None,
        Err(Broken { why, .. }) => Some((seed, why)),
    });
    let (seed, why) = first.unwrap_or_else(|| panic!("nobody misses {off:?}"));
    println!("{off:?}: seed {seed}: {why}");
    (seed, why)
}

/// That it is noticed, and for one of these reasons.
fn missed(off: Off, reasons: &[&str]) {
    let (seed, why) = noticed(off);
    let is_own = reasons.iter().any(|reason| why.contains(reason));
    assert!(
        is_own,
        "{off:?} is noticed by seed {seed} for another reason: {why}"
    );
}

#[test]
fn scan_all() {
    use Rule::*;
    let all = [
        RowsNotOvertaken,
        ExpiredStillHeld,
        MasterJudges,
        RequestsRemembered,
        BirthsChecked,
        RefusedTakenBack,
        JudgedByAppended,
        AnswersWait,
        VersionsAboveSeen,
        UnknownIsUnknown,
        PromisesKept,
        AppliedFirst,
        ConditionsKept,
        DeletesBeforeAnswers,
        DeletesRepeated,
        MarksAfterDeletes,
        MarksWithheld,
    ];
    let mut offs: Vec<Off> = all.into_iter().map(Off::Rule).collect();
    offs.extend([Off::LogSyncs, Off::PromiseSyncs, Off::FreshStarts]);
    for off in offs {
        let began = std::time::Instant::now();
        let mut found = Vec::new();
        for seed in 0..SEEDS {
            if let Err(Broken { why, .. }) = run(seed, off) {
                found.push((seed, why));
                if found.len() == 4 {
                    break;
                }
            }
        }
        println!("== {off:?} in {:?}", began.elapsed());
        for (seed, why) in found {
            println!("   {seed}: {}", why.chars().take(260).collect::<String>());
        }
    }
    missed(Off::Nothing, &[]);
}
