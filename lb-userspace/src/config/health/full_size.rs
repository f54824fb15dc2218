//! Reads `full-size`. Pure.

use toml::de::DeValue;

use crate::config::notes::Notes;
use crate::config::reader::Reader;
use crate::model::{Check, USUAL_SIZE};

const KEY: &str = "full-size";
/// What every host takes (RFC 791 section 3.1), and what Ethernet's jumbo frames usually hold.
const SIZES: std::ops::RangeInclusive<u64> = 576..=9000;

/// The key means something with this check.
pub(in crate::config) const fn is_meant(check: &Check) -> bool {
    is_http(check) || matches!(check, Check::Icmp)
}

/// Its request has room for any number of bytes.
const fn is_http(check: &Check) -> bool {
    matches!(
        check,
        Check::Http(_) | Check::Https(..) | Check::Http2(..) | Check::Grpc(..)
    )
}

/// The largest packet of a client that checks prove to pass, in bytes; `None`: they prove nothing about sizes.
pub(super) fn of_checks(
    reader: &Reader<'_, '_>,
    check: &Check,
    notes: &mut Notes<'_>,
) -> Option<u16> {
    let Some(found) = reader.get(KEY).filter(|_| is_meant(check)) else {
        return is_http(check).then_some(USUAL_SIZE);
    };
    match found.get_ref() {
        DeValue::Boolean(on) => on.then_some(USUAL_SIZE),
        DeValue::Integer(_) => {
            let size = reader.integer(KEY, SIZES, notes)?;
            u16::try_from(size.value).ok()
        }
        _ => {
            let form = "true, false or a number from 576 to 9000";
            reader.wrong_type(KEY, form, found, notes);
            None
        }
    }
}
