//! Attributes in which image builders name components, as chunkah and rpm-ostree read them.

use super::{Claims, ComponentKind};
use crate::base::limits::MAX_COMPONENT;

/// A release is about a month; `user.update-interval` is stated in days.
const DAYS_A_RELEASE: f64 = 30.0;

pub(super) fn claim(claims: &mut Claims<'_>) {
    let set = &claims.rootfs.files;
    for entry in set.entries() {
        let inode = set.inode(entry);
        let get = |name: &[u8]| {
            let list = inode.xattrs.iter().flat_map(|x| x.iter());
            let value = list.filter(|x| &*x.0 == name).map(|x| &*x.1).next()?;
            std::str::from_utf8(value).ok().filter(|v| (1..=MAX_COMPONENT).contains(&v.len()))
        };
        let Some(name) = get(b"user.component") else { continue };
        let component = claims.component(format!("xattr:{name}"), ComponentKind::Application);
        claims.claim(entry, component);
        let days = get(b"user.update-interval").and_then(|text| match text {
            "daily" => Some(1.0),
            "weekly" => Some(7.0),
            "monthly" => Some(30.0),
            "quarterly" => Some(91.0),
            "yearly" => Some(365.0),
            days => days.parse::<u32>().ok().filter(|d| *d > 0).map(f64::from),
        });
        if let Some(days) = days {
            claims.components[component.index()].churn = Some(DAYS_A_RELEASE / days);
        }
    }
}
