//! Quotas: everything kept is charged, and no identity steps around its share.
