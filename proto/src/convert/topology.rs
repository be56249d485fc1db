//! Converts roles and health. A number that this release does not have is read as `Unknown`: for
//! it, the generated getters return the unspecified variant.

use tierkv_types::{CacheHealth, CoordinationHealth, CoordinatorRole, NodeRole};

use crate::v1;

impl From<NodeRole> for v1::NodeRole {
    fn from(role: NodeRole) -> Self {
        match role {
            NodeRole::Master => Self::Master,
            NodeRole::Replica => Self::Replica,
            NodeRole::TakingOver => Self::TakingOver,
            NodeRole::Joining => Self::Joining,
            NodeRole::Learner => Self::Learner,
            NodeRole::Starting => Self::Starting,
            NodeRole::Unreachable => Self::Unreachable,
            NodeRole::Unknown => Self::Unspecified,
        }
    }
}

impl From<v1::NodeRole> for NodeRole {
    fn from(wire: v1::NodeRole) -> Self {
        match wire {
            v1::NodeRole::Master => Self::Master,
            v1::NodeRole::Replica => Self::Replica,
            v1::NodeRole::TakingOver => Self::TakingOver,
            v1::NodeRole::Joining => Self::Joining,
            v1::NodeRole::Learner => Self::Learner,
            v1::NodeRole::Starting => Self::Starting,
            v1::NodeRole::Unreachable => Self::Unreachable,
            v1::NodeRole::Unspecified => Self::Unknown,
        }
    }
}

impl From<CoordinatorRole> for v1::CoordinatorRole {
    fn from(role: CoordinatorRole) -> Self {
        match role {
            CoordinatorRole::Primary => Self::Primary,
            CoordinatorRole::Backup => Self::Backup,
            CoordinatorRole::Serving => Self::Serving,
            CoordinatorRole::Unknown => Self::Unspecified,
        }
    }
}

impl From<v1::CoordinatorRole> for CoordinatorRole {
    fn from(wire: v1::CoordinatorRole) -> Self {
        match wire {
            v1::CoordinatorRole::Primary => Self::Primary,
            v1::CoordinatorRole::Backup => Self::Backup,
            v1::CoordinatorRole::Serving => Self::Serving,
            v1::CoordinatorRole::Unspecified => Self::Unknown,
        }
    }
}

impl From<CoordinationHealth> for v1::CoordinationHealth {
    fn from(health: CoordinationHealth) -> Self {
        match health {
            CoordinationHealth::Up => Self::Up,
            CoordinationHealth::Down => Self::Down,
            CoordinationHealth::Unknown => Self::Unspecified,
        }
    }
}

impl From<v1::CoordinationHealth> for CoordinationHealth {
    fn from(wire: v1::CoordinationHealth) -> Self {
        match wire {
            v1::CoordinationHealth::Up => Self::Up,
            v1::CoordinationHealth::Down => Self::Down,
            v1::CoordinationHealth::Unspecified => Self::Unknown,
        }
    }
}

impl From<CacheHealth> for v1::CacheHealth {
    fn from(health: CacheHealth) -> Self {
        match health {
            CacheHealth::Up => Self::Up,
            CacheHealth::Down => Self::Down,
            CacheHealth::Unknown => Self::Unspecified,
        }
    }
}

impl From<v1::CacheHealth> for CacheHealth {
    fn from(wire: v1::CacheHealth) -> Self {
        match wire {
            v1::CacheHealth::Up => Self::Up,
            v1::CacheHealth::Down => Self::Down,
            v1::CacheHealth::Unspecified => Self::Unknown,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_role_comes_back_from_the_wire() {
        for role in NodeRole::ALL {
            assert_eq!(NodeRole::from(v1::NodeRole::from(*role)), *role);
        }
        for health in CoordinationHealth::ALL {
            assert_eq!(
                CoordinationHealth::from(v1::CoordinationHealth::from(*health)),
                *health
            );
        }
        for role in CoordinatorRole::ALL {
            assert_eq!(
                CoordinatorRole::from(v1::CoordinatorRole::from(*role)),
                *role
            );
        }
        for health in CacheHealth::ALL {
            assert_eq!(CacheHealth::from(v1::CacheHealth::from(*health)), *health);
        }
    }

    #[test]
    fn numbers_of_a_newer_release_are_unknown() {
        let member = v1::MemberStatus {
            role: 99,
            ..v1::MemberStatus::default()
        };
        assert_eq!(NodeRole::from(member.role()), NodeRole::Unknown);
        let coordinator = v1::CoordinatorStatus {
            role: -1,
            ..v1::CoordinatorStatus::default()
        };
        let role = CoordinatorRole::from(coordinator.role());
        assert_eq!(role, CoordinatorRole::Unknown);
    }
}
