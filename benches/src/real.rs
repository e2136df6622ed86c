//! Real events, from files that stand beside the repository: see its `shared/data`, or the folder that `EVENTUALI_BENCH_DATA` names.

use std::fmt::Write;
use std::path::{Path, PathBuf};
use std::process::Command;

use eventuali::{AppendBatch, EventData, ExpectedVersion, Json, NewEvent, Timestamp};
use serde_json::Value;

use crate::Result;

/// An event of the data, and the stream it belongs to.
pub struct RealEvent {
    /// The aggregate.
    pub aggregate_id: String,
    /// Its type.
    pub aggregate_type: &'static str,
    /// The event.
    pub event: NewEvent,
}

/// The folder with the data.
fn folder() -> PathBuf {
    let beside = || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/data");
    std::env::var_os("EVENTUALI_BENCH_DATA").map_or_else(beside, PathBuf::from)
}

/// The lines of a file of JSON lines, unpacked by `gzip`.
fn lines(name: &str) -> Result<Vec<Value>> {
    let path = folder().join(name);
    let unpacked = Command::new("gzip").arg("-dc").arg(&path).output()?;
    if !unpacked.status.success() {
        return Err(format!("{path:?}: {}; EVENTUALI_BENCH_DATA names the folder", String::from_utf8_lossy(&unpacked.stderr).trim()).into());
    }
    unpacked.stdout.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).map(|line| Ok(serde_json::from_slice(line)?)).collect()
}

fn text<'a>(line: &'a Value, field: &str) -> &'a str {
    line[field].as_str().unwrap_or_default()
}

/// Every event of the loan applications, in the order in which they happened: small payloads, many streams.
///
/// # Errors
/// The file is not there.
pub fn loans() -> Result<Vec<RealEvent>> {
    lines("loan_applications.jsonl.gz")?
        .iter()
        .map(|line| {
            let (activity, lifecycle) = (text(line, "activity"), text(line, "lifecycle"));
            let mut payload = format!("{{\"resource\":{}", line["resource"]);
            let event_type = if let Some(item) = activity.strip_prefix("W_") {
                write!(payload, ",\"item\":{}", Value::from(item))?;
                format!("Work{lifecycle}")
            } else {
                if activity == "A_SUBMITTED" {
                    write!(payload, ",\"amount_requested\":{},\"registered_at\":{}", line["amount_requested"], line["registered_at"])?;
                }
                activity.to_owned()
            };
            payload.push('}');
            let mut event = NewEvent::new(event_type, EventData::Json(Json::new(payload.into_bytes())?));
            event.timestamp = Some(Timestamp(micros(text(line, "at"))));
            Ok(RealEvent { aggregate_id: text(line, "case").to_owned(), aggregate_type: "LoanApplication", event })
        })
        .collect()
}

/// Webhook payloads of all kinds: large nested JSON, each an aggregate of its own.
///
/// # Errors
/// The file is not there.
pub fn webhooks() -> Result<Vec<RealEvent>> {
    lines("github_webhooks.jsonl.gz")?
        .iter()
        .enumerate()
        .map(|(number, line)| {
            let event_type = format!("{}.{}", text(line, "event"), text(line, "action"));
            let event = NewEvent::new(event_type, EventData::Json(Json::new(line["payload"].to_string().into_bytes())?));
            Ok(RealEvent { aggregate_id: format!("delivery-{number}"), aggregate_type: "Delivery", event })
        })
        .collect()
}

/// The events in their order, so many in each append.
#[must_use]
pub fn appends(events: &[RealEvent], each: usize) -> Vec<AppendBatch> {
    let batch = |events: &[RealEvent]| {
        let one = |batch: AppendBatch, real: &RealEvent| {
            batch.and(&*real.aggregate_id, real.aggregate_type, ExpectedVersion::Any, vec![real.event.clone()])
        };
        events.iter().fold(AppendBatch::default(), one)
    };
    events.chunks(each).map(batch).collect()
}

/// The microseconds since 1970 of a time like `2011-09-30T22:38:44.546Z`.
fn micros(time: &str) -> i64 {
    let number = |range: std::ops::Range<usize>| time.get(range).and_then(|digits| digits.parse::<i64>().ok()).unwrap_or(0);
    let (year, month, day) = (number(0..4), number(5..7), number(8..10));
    // Days since 1970-01-01 of a date, with years that begin in March.
    let shifted = year - i64::from(month <= 2);
    let day_of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = shifted * 365 + shifted / 4 - shifted / 100 + shifted / 400 + day_of_year - 719_468;
    let seconds = days * 86_400 + number(11..13) * 3600 + number(14..16) * 60 + number(17..19);
    seconds * 1_000_000 + number(20..23) * 1000
}
