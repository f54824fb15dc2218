//! Where checks can go to the VIP on a backend, and where they are told to and cannot. Pure.

use toml::de::DeValue;

use super::codes;
use super::notes::{At, Note, Notes};
use super::reader::Reader;
use super::service::ServiceDraft;
use crate::model::{Aim, HealthPolicy, family, no_real_path};

const KEY: &str = "target";

/// Where a service's table says that checks go to the VIP.
pub(super) fn to_vip(service: &Reader<'_, '_>, health: &HealthPolicy) -> Option<At<()>> {
    let DeValue::Table(table) = service.get("health")?.get_ref() else {
        return None;
    };
    let span = table.get(KEY)?.span();
    (health.target == Some(Aim::Vip)).then_some(At { value: (), span })
}

/// Notes what cannot be.
pub(super) fn check(draft: &ServiceDraft, notes: &mut Notes<'_>) {
    let (Some(at), Some(address)) = (&draft.to_vip, &draft.address) else {
        return;
    };
    let key = format!("{}health.{KEY}", draft.path);
    let forwarding = draft.forwarding.as_ref().map(|at| at.value);
    if let Some(why) = forwarding.and_then(|f| no_real_path(f, address.value)) {
        let message = format!("checks cannot go to the VIP: {why}");
        notes.add(Note::new(&codes::NO_REAL_PATH, &at.span, &key, message));
    }
    let other = |backend: &&super::service::BackendDraft| {
        let own = backend.address.as_ref();
        own.is_some_and(|own| family(own.value) != address.value.family())
    };
    // Without a tunnel, that it is of another family is an error of its own.
    let tunnel = forwarding.is_some_and(|f| f.is_tunnel());
    if let Some(own) = draft.backends.iter().find(other)
        && let Some(own) = own.address.as_ref().filter(|_| tunnel)
    {
        let message = format!(
            "checks cannot go to the VIP at {}: it is of another family",
            own.value
        );
        let note = Note::new(&codes::NO_REAL_PATH, &at.span, &key, message);
        notes.add(note.label(&own.span, "a backend of the other family"));
    }
}
