"""Every statement on keys, roles, assignments and the resolution of authority."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from sqlalchemy import delete, exists, func, select, text, update
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.orm import Session

from app.core.statements import fetch
from app.rbac.models import Assignment, RegisteredKey, Role

ADMIN = "admin"

PRINCIPAL = """
SELECT u.email, u.kind, (SELECT version FROM trellis.rbac_version) AS stamp
FROM trellis.users u
WHERE u.id = %s AND u.disabled_at IS NULL
"""

# The same for several, to be joined with what other slices ask about them.
PRINCIPALS = """
SELECT u.id, u.email, u.kind, (SELECT version FROM trellis.rbac_version) AS stamp
FROM trellis.users u
WHERE u.id = ANY (CAST(CAST(%(principals)s AS text[]) AS uuid[])) AND u.disabled_at IS NULL
"""

# A condition on statements that act on remembered authority.
UNCHANGED = """
(SELECT version FROM trellis.rbac_version) = ALL (CAST(CAST(:stamps AS text[]) AS uuid[]))
AND NOT EXISTS (
    SELECT FROM unnest(CAST(CAST(:principals AS text[]) AS uuid[])) AS acting (id)
    WHERE NOT EXISTS (
        SELECT FROM trellis.users u WHERE u.id = acting.id AND u.disabled_at IS NULL
    )
)
"""

# UNION (not UNION ALL) makes the walk visit a role once, so stored cycles end it.
RESOLVED = """
WITH RECURSIVE held (name) AS (
    SELECT a.role FROM trellis.rbac_assignments a WHERE a.user_id = %s
    UNION
    SELECT parent.name
    FROM held
    JOIN trellis.rbac_roles r ON r.name = held.name
    CROSS JOIN LATERAL unnest(r.inherits) AS parent (name)
)
SELECT (SELECT version FROM trellis.rbac_version) AS stamp,
       ARRAY(SELECT name FROM held) AS roles,
       ARRAY(
           SELECT DISTINCT granted.key
           FROM held
           JOIN trellis.rbac_roles r ON r.name = held.name
           CROSS JOIN LATERAL unnest(r.permissions) AS granted (key)
       ) AS permissions
"""

ENABLED_HUMAN_ADMINS = text("""
SELECT u.id FROM trellis.rbac_assignments a JOIN trellis.users u ON u.id = a.user_id
WHERE a.role = 'admin' AND u.kind = 'human' AND u.disabled_at IS NULL
ORDER BY a.assigned_at, u.created_at, u.id
""")
HUMAN_HOLDS = text("""
SELECT EXISTS (
    SELECT FROM trellis.rbac_assignments a JOIN trellis.users u ON u.id = a.user_id
    WHERE u.kind = 'human' AND (CAST(:role AS text) IS NULL OR a.role = :role)
)
""")


@dataclass(frozen=True, slots=True)
class PrincipalRow:
    """An enabled principal and the state of the authority tables it was read with."""

    email: str
    kind: str
    stamp: UUID


@dataclass(frozen=True, slots=True)
class Resolved:
    """What a principal holds, inherited roles included, nothing expanded."""

    stamp: UUID
    roles: frozenset[str]
    permissions: frozenset[str]


def principal(session: Session, user_id: UUID) -> PrincipalRow | None:
    """Return an enabled principal; None when it is gone or disabled."""
    row = fetch(session, PRINCIPAL, (str(user_id),), often=True).one_or_none()
    return None if row is None else PrincipalRow(row[0], row[1], _uuid(row[2]))


def resolve(session: Session, user_id: UUID) -> Resolved:
    """Return the roles and keys of a principal (empty for an unknown one)."""
    row = fetch(session, RESOLVED, (str(user_id),)).one()
    return Resolved(_uuid(row[0]), frozenset(row[1]), frozenset(row[2]))


def roles(session: Session) -> list[Role]:
    """Return all roles by name."""
    return list(session.scalars(select(Role).order_by(Role.name)))


def role(session: Session, name: str, *, lock: bool = False) -> Role | None:
    """Return a role, optionally locked against other changes."""
    query = select(Role).where(Role.name == name)
    return session.scalar(query.with_for_update() if lock else query)


def role_exists(session: Session, name: str) -> bool:
    """Tell whether a role is stored."""
    return bool(session.scalar(select(exists().where(Role.name == name))))


def parents(session: Session) -> dict[str, list[str]]:
    """Return the inheritance graph: every role with the names it inherits from."""
    rows = session.execute(select(Role.name, Role.inherits).where(Role.inherits != []))
    return {row.name: row.inherits for row in rows}


def add_role(
    session: Session,
    name: str,
    *,
    description: str | None = None,
    inherits: Iterable[str] = (),
    permissions: Iterable[str] = (),
) -> bool:
    """Insert a role; False when the name is taken."""
    row = insert(Role).values(
        name=name,
        description=description,
        inherits=list(inherits),
        permissions=list(permissions),
    )
    return session.scalar(row.on_conflict_do_nothing().returning(Role.name)) is not None


def put_role(session: Session, name: str, *, description: str, permissions: list[str]) -> None:
    """Insert a role or set its keys, unless it has exactly these."""
    row = insert(Role).values(name=name, description=description, permissions=permissions)
    session.execute(
        row.on_conflict_do_update(
            index_elements=[Role.name],
            set_={"permissions": row.excluded.permissions},
            where=Role.permissions != row.excluded.permissions,
        )
    )


def update_role(session: Session, name: str, values: Mapping[str, object]) -> None:
    """Change columns of a role."""
    session.execute(update(Role).where(Role.name == name).values(**values))


def delete_roles(session: Session, names: Iterable[str]) -> list[str]:
    """Delete roles with their assignments; return those that existed."""
    gone = delete(Role).where(Role.name.in_(list(names)))
    return list(session.scalars(gone.returning(Role.name)))


def assignments(session: Session) -> list[Assignment]:
    """Return all assignments, newest first."""
    return list(
        session.scalars(
            select(Assignment).order_by(
                Assignment.assigned_at.desc(), Assignment.user_id, Assignment.role
            )
        )
    )


def assign(session: Session, user_id: UUID, role_name: str) -> datetime | None:
    """Insert an assignment; None when it existed."""
    row = insert(Assignment).values(user_id=user_id, role=role_name)
    return session.scalar(row.on_conflict_do_nothing().returning(Assignment.assigned_at))


def revoke(session: Session, user_id: UUID, role_name: str) -> bool:
    """Delete an assignment and tell whether there was one."""
    gone = delete(Assignment).where(Assignment.user_id == user_id, Assignment.role == role_name)
    return session.scalar(gone.returning(Assignment.role)) is not None


def has_assignment(session: Session, user_id: UUID, role_name: str | None = None) -> bool:
    """Tell whether a principal is assigned a role (any role when no name is given)."""
    query = exists().where(Assignment.user_id == user_id)
    if role_name is not None:
        query = query.where(Assignment.role == role_name)
    return bool(session.scalar(select(query)))


def enabled_human_admins(session: Session) -> list[UUID]:
    """Return the enabled humans who hold the role admin itself, longest first."""
    return [_uuid(row[0]) for row in session.execute(ENABLED_HUMAN_ADMINS)]


def human_holds(session: Session, role_name: str | None) -> bool:
    """Tell whether some human is assigned a role (any role when None)."""
    return bool(session.scalar(HUMAN_HOLDS, {"role": role_name}))


def keys(session: Session) -> list[RegisteredKey]:
    """Return the registered keys in order."""
    return list(session.scalars(select(RegisteredKey).order_by(RegisteredKey.key)))


def put_keys(session: Session, described: Mapping[str, str], source_app: str | None) -> None:
    """Register keys, replacing the description of those that are registered."""
    if not described:
        return
    row = insert(RegisteredKey).values(
        [
            {"key": key, "description": description, "source_app": source_app}
            for key, description in described.items()
        ]
    )
    session.execute(
        row.on_conflict_do_update(
            index_elements=[RegisteredKey.key],
            set_={
                "description": row.excluded.description,
                "source_app": row.excluded.source_app,
            },
        )
    )


def delete_keys_of_app(session: Session, app_id: str, *, keep: Iterable[str] = ()) -> None:
    """Unregister an app's keys, all but some."""
    session.execute(
        delete(RegisteredKey).where(
            RegisteredKey.source_app == app_id, RegisteredKey.key.not_in(list(keep))
        )
    )


def delete_keys(session: Session, keys: Collection[str]) -> None:
    """Unregister some keys."""
    session.execute(delete(RegisteredKey).where(RegisteredKey.key.in_(keys)))


def delete_keys_below(session: Session, prefix: str) -> None:
    """Unregister every key that begins with a prefix."""
    session.execute(delete(RegisteredKey).where(func.starts_with(RegisteredKey.key, prefix)))


def _uuid(value: object) -> UUID:
    return value if isinstance(value, UUID) else UUID(str(value))
