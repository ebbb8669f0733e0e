"""Rows of uploaded items."""

from datetime import datetime
from typing import Literal
from uuid import UUID, uuid4

from sqlalchemy import BigInteger, ForeignKey, Index, LargeBinary, String, text
from sqlalchemy.orm import Mapped, mapped_column

from service.database import Base, UtcDateTime

Status = Literal["received", "processing", "ready", "failed"]
UNFINISHED: tuple[Status, ...] = ("received", "processing")

IS_PUBLIC = text("public AND status = 'ready'")
IS_DELETED = text("deleted")
IS_UNFINISHED = text("status IN ('received', 'processing')")  # UNFINISHED, as its index has it


def original_key(item_id: UUID) -> str:
    return f"{item_id.hex}/original"


def thumbnail_key(item_id: UUID) -> str:
    return f"{item_id.hex}/thumbnail"


class MediaItem(Base):
    """One upload. `attempt` fences processing: only the newest attempt may finish."""

    __tablename__ = "media_items"

    id: Mapped[UUID] = mapped_column(primary_key=True, default=uuid4)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(String(200))
    filename: Mapped[str] = mapped_column(String(255))
    public: Mapped[bool]
    size: Mapped[int] = mapped_column(BigInteger)
    status: Mapped[Status] = mapped_column(String(10), default="received")
    reason: Mapped[str | None] = mapped_column(String(200))
    progress: Mapped[int] = mapped_column(default=0)
    attempt: Mapped[int] = mapped_column(default=0)
    content_type: Mapped[str | None] = mapped_column(String(100))
    sha256: Mapped[bytes | None] = mapped_column(LargeBinary(32))
    width: Mapped[int | None]
    height: Mapped[int | None]
    has_thumbnail: Mapped[bool] = mapped_column(default=False)
    created_at: Mapped[datetime] = mapped_column(UtcDateTime)
    updated_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (
        Index("ix_media_items_account_id_created_at_id", "account_id", "created_at", "id"),
        Index(
            "ix_media_items_public_created_at_id",
            "created_at",
            "id",
            postgresql_where=IS_PUBLIC,
            sqlite_where=IS_PUBLIC,
        ),
        Index(
            "ix_media_items_unfinished_account_id",
            "account_id",
            postgresql_where=IS_UNFINISHED,
            sqlite_where=IS_UNFINISHED,
        ),
    )

    @property
    def original_key(self) -> str:
        return original_key(self.id)

    @property
    def thumbnail_key(self) -> str:
        return thumbnail_key(self.id)


class MediaRevision(Base):
    """How often an account's items have changed, up to which number deletions are forgotten, and
    what the items take, each with `allowance.ITEM_BYTES` beside its content."""

    __tablename__ = "media_revisions"

    account_id: Mapped[UUID] = mapped_column(
        ForeignKey("accounts.id", ondelete="CASCADE"), primary_key=True
    )
    latest: Mapped[int] = mapped_column(BigInteger)
    forgotten: Mapped[int] = mapped_column(BigInteger, server_default="0")
    stored_bytes: Mapped[int] = mapped_column(BigInteger, server_default="0")


class MediaChange(Base):
    """The newest change of an item. Stays for a while where the change was its deletion."""

    __tablename__ = "media_changes"

    item_id: Mapped[UUID] = mapped_column(primary_key=True)
    account_id: Mapped[UUID] = mapped_column(ForeignKey("accounts.id", ondelete="CASCADE"))
    revision: Mapped[int] = mapped_column(BigInteger)
    deleted: Mapped[bool]
    recorded_at: Mapped[datetime] = mapped_column(UtcDateTime)

    __table_args__ = (
        Index("ix_media_changes_account_id_revision", "account_id", "revision", unique=True),
        Index(
            "ix_media_changes_deleted_recorded_at",
            "recorded_at",
            postgresql_where=IS_DELETED,
            sqlite_where=IS_DELETED,
        ),
    )
