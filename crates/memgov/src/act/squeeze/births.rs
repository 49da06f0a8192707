//! Which groups the kernel is to tell births of connections in, where it can.

use std::sync::Arc;

use memgov_decide::snapshot::GroupId;

use crate::bpf::Maps;

/// What it was told last.
pub(super) struct Births {
    kernel: Option<Arc<Maps>>,
    told: Vec<GroupId>,
}

impl Births {
    pub fn new(kernel: Option<Arc<Maps>>) -> Self {
        Self { kernel, told: Vec::new() }
    }

    /// These groups are squeezed, and no others.
    pub fn follow(&mut self, groups: Vec<GroupId>) {
        if let Some(kernel) = &self.kernel
            && self.told != groups
        {
            // Of whom there is no room for, births are found by looking.
            let _too_many = kernel.squeeze(&self.told, &groups);
            self.told = groups;
        }
    }
}
